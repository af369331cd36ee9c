"""Processes that render chat templates: kept, limited, stopped, and those of a forked child."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import moeflux
from moeflux import renderer
from moeflux.renderer import Renderer

TEMPLATE = """
{%- if messages[0].content == 'hang' %}
{%- for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}
{%- elif messages[0].content == 'eat' %}{% set x = 'x' * 2**29 %}{{ x | length }}
{%- elif messages[0].content == 'refuse' %}{{ raise_exception('no') }}
{%- endif %}{{ messages[0].content }}"""


def request(content):
    return {"messages": [{"role": "user", "content": content}], "tools": None, "documents": None,
            "add_generation_prompt": True, "variables": {}}  # fmt: skip


def pids(found):
    return [worker.process.pid for worker in found._idle]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def found():
    return Renderer(TEMPLATE)


def test_a_process_is_kept_until_it_has_rendered_so_often(found, monkeypatch):
    assert found.render(request("hi")) == "hi"
    (pid,) = pids(found)
    with pytest.raises(moeflux.TemplateError, match=r"failed: TemplateError: no$"):
        found.render(request("refuse"))
    assert found.render(request("é 🙂")) == "é 🙂" and pids(found) == [pid]
    monkeypatch.setattr(renderer, "MAX_RENDERS", 4)
    assert found.render(request("x")) == "x" and not pids(found) and not is_running(pid)


@pytest.mark.parametrize(
    ("content", "limit", "words"),
    [("hang", ("MAX_SECONDS", 0), "took over 0 seconds of processor time"),
     ("eat", ("MAX_BYTES", 256 << 20), "failed: MemoryError"),
     ("long", ("MAX_RENDERED_CHARS", 3), "over 3 characters")],
)  # fmt: skip
def test_after_a_render_that_is_stopped_the_next_one_works(content, limit, words, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(renderer, *limit)
        found = Renderer(TEMPLATE)
        assert found.render(request("a")) == "a"
        (pid,) = pids(found)
        with pytest.raises(moeflux.TemplateError, match=words):
            found.render(request(content))
        assert not pids(found) and not is_running(pid)
    assert found.render(request("hi")) == "hi"


def test_a_render_ends_by_the_clock_where_its_processor_time_does_not_end_it(found, monkeypatch):
    found.render(request("a"))
    with monkeypatch.context() as patch, pytest.raises(moeflux.TemplateError, match=r"over 0.2 s"):
        patch.setattr(renderer, "MAX_WAIT", 0.2)
        found.render(request("hang"))
    assert found.render(request("hi")) == "hi"


def test_a_process_that_died_unused_is_replaced(found):
    found.render(request("hi"))
    found._idle[0].process.kill()
    found._idle[0].process.wait()
    assert found.render(request("hi")) == "hi"


def test_an_interrupted_render_leaves_no_answer_for_the_next(found):
    found.render(request("hi"))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            found.render(request("hang"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not pids(found) and found.render(request("hi")) == "hi"


def test_threads_render_at_the_same_time_in_a_bounded_number_of_processes(monkeypatch):
    monkeypatch.setattr(renderer, "MAX_WORKERS", 2)
    found, said = Renderer(TEMPLATE), {}

    def work(name):
        said[name] = [found.render(request(f"{name} {i}")) for i in range(5)]

    threads = [threading.Thread(target=work, args=(str(i),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {str(n): [f"{n} {i}" for i in range(5)] for n in range(6)}
    assert len(pids(found)) <= 2


def test_no_process_outlives_the_renderer_or_its_program():
    found = Renderer(TEMPLATE)
    found.render(request("hi"))
    (pid,) = pids(found)
    del found
    gc.collect()
    assert not is_running(pid)
    code = f"""
from moeflux.renderer import Renderer
found = Renderer({TEMPLATE!r})
found.render({request("hi")!r})
print(found._idle[0].process.pid, flush=True)
"""
    for end in ("", "import os; os.kill(os.getpid(), 9)"):
        done = subprocess.run([sys.executable, "-W", "error", "-c", code + end], text=True,
                              capture_output=True, check=False, timeout=60)  # fmt: skip
        deadline = time.monotonic() + 30
        while is_running(int(done.stdout)):  # the system takes a moment to end it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not done.stderr


def test_a_forked_child_has_a_process_of_its_own():
    code = f"""
import os
from moeflux.renderer import MAX_WORKERS, Renderer
found = Renderer({TEMPLATE!r})
found.render({request("parent")!r})
pid = found._idle[0].process.pid
for i in range(MAX_WORKERS):
    found._places.acquire()  # as if other threads rendered
child = os.fork()
if child:
    found._places.release()
assert found.render({request("hi")!r}) == "hi"
assert (found._idle[0].process.pid == pid) == bool(child)
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert found.render({request("hi")!r}) == "hi" and found._idle[0].process.pid == pid
"""
    warnings = ["-W", "error::ResourceWarning", "-W", "ignore:This process"]  # of Python 3.12: fork
    done = subprocess.run([sys.executable, *warnings, "-c", code], text=True, capture_output=True,
                          check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
