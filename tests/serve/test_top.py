"""`moeflux top`: what it tells is what the server's counters say, and no server can harm it."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moeflux import FormatError, IoError, SessionError
from moeflux.commands.top import view
from moeflux.commands.watched import RATES, Look, facts, look
from serve.process import serving
from support.commands import run_moeflux

SERVE = "moeflux serve demo-chat --memory 24MiB --context 512"
COMMAND = [sys.executable, "-m", "moeflux.cli", "top"]
INFO = '# TYPE moeflux_info gauge\nmoeflux_info{fingerprint="f",model="m"} 1.0\n'


def run(*args, status=0):
    done = run_moeflux("top", *args)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@contextlib.contextmanager
def pretending(answers, status=200, headers=()):
    """A server that answers paths by a table; what it was asked, and its address."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append((self.path, self.headers.get("x-api-key")))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b""))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def seen(when, **counts):
    """A look at a server with these counts."""
    labelled = {
        "hits": ("moeflux_expert_reads_total", {"hit": "true"}),
        "misses": ("moeflux_expert_reads_total", {"hit": "false"}),
        "fed": ("moeflux_prompt_tokens_total", {"source": "computed"}),
        "made": ("moeflux_generated_tokens_total", {}),
        "nbytes": ("moeflux_expert_bytes_total", {}),
        "waited": ("moeflux_read_wait_seconds_total", {}),
    }
    values = {}
    for name, count in counts.items():
        metric, labels = labelled[name]
        values[metric, frozenset(labels.items())] = count
    return Look(when, values, {"model": "m"}, [{"is_processing": True}, {}], "ok")


def test_rates_are_the_growth_of_counters_over_the_time_between():
    before = seen(10.0, hits=100, misses=50, fed=7, made=30, nbytes=1e9, waited=3.0)
    after = seen(12.0, hits=190, misses=60, fed=207, made=48, nbytes=4e9, waited=3.5)
    found = facts(before, after)
    assert {name: found[name] for name in RATES} == {
        "tokens_per_second": 9.0, "prompt_tokens_per_second": 100.0,
        "read_bytes_per_second": 1.5e9, "hit_rate": 0.9, "waiting_share": 0.25,
    }  # fmt: skip
    assert found["slots"] == [True, False] and found["seconds"] == 2.0


def test_a_server_without_work_or_started_again_has_no_rates_that_mean_nothing():
    idle = facts(seen(1.0, hits=5), seen(2.0, hits=5))
    assert idle["hit_rate"] is None and idle["tokens_per_second"] == 0
    again = facts(seen(1.0, made=100), seen(2.0, made=3))
    assert [again[name] for name in RATES] == [None] * len(RATES)
    assert [facts(seen(1.0), seen(1.0))[name] for name in RATES] == [None] * len(RATES)


def test_a_running_server_is_told_in_json_and_to_people():
    with serving(SERVE) as url:
        body = {"prompt": "Hello", "max_tokens": 30, "ignore_eos": True}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(),
                                         {"content-type": "application/json"})  # fmt: skip
        urllib.request.urlopen(request, timeout=60).close()
        found = json.loads(run(f"{url}/v1", "--once", "--json", "--interval", "0.2"))
        assert found["generated_tokens"] == 30 and found["model"] == "demo-chat"
        assert found["memory_bytes"]["budget"] == 24 << 20 and found["health"] == "ok"
        assert found["slots"] == [False] and found["running"] == found["waiting"] == 0
        assert 0 < found["memory_bytes"]["live"] <= 24 << 20
        told = run(url, "--once", "--interval", "0.2")
        for word in ("demo-chat", "tokens/s", "GB/s", "hit rate", "24 MiB", "0 run, 0 wait"):
            assert word in told


def test_a_live_view_goes_on_until_ctrl_c_and_ends_well():
    answers = {"/metrics": INFO.encode(), "/slots": b"[]", "/health": b'{"status": "ok"}'}
    leader, follower = pty.openpty()
    with (
        pretending(answers) as (url, asked),
        subprocess.Popen([*COMMAND, url, "--interval", "0.1"], stdout=follower, stderr=follower,
                         stdin=follower) as process,
    ):  # fmt: skip
        os.close(follower)
        shown = b""
        while len(asked) < 10:
            shown += os.read(leader, 1 << 16)
        answers["/metrics"] = b"<html>"  # another server has taken its place
        while b"found another" not in shown:
            shown += os.read(leader, 1 << 16)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal's end
            while os.read(leader, 1 << 16):
                pass
        assert process.wait(10) == 0
    os.close(leader)
    assert b"m at http" in shown


def test_the_key_is_sent_and_goes_nowhere_else():
    with serving(SERVE + " --api-key secret") as url:
        assert "wants a key" in run(url, "--once", status=1)
        assert "demo-chat" in run(url, "--once", "--interval", "0.1", "--api-key", "secret")
    with pretending({}) as (other, asked):
        away = pretending({}, 302, [("Location", f"{other}/metrics")])
        with away as (url, _), pytest.raises(FormatError):
            look(url, "secret")
        assert asked == []


@pytest.mark.parametrize(
    "text",
    [b"", b"<html></html>", b"\xff\xfe", b"a{b=} 1\n", b"# TYPE x counter\nx_total 1\n",
     b'moeflux_info{model="' + b"x" * 100, b"{" * 100_000, b"\0" * (2 << 20)],
)  # fmt: skip
def test_what_is_no_server_of_ours_is_refused_by_name(text):
    with pretending({"/metrics": text}) as (url, _), pytest.raises(FormatError, match="another"):
        look(url, "")


@pytest.mark.parametrize("slots", [b"", b"{}", b"[1]", b"[" * 100_000])
def test_slots_of_another_shape_are_refused(slots):
    answers = {"/metrics": INFO.encode(), "/slots": slots, "/health": b"[]"}
    with pretending(answers) as (url, _), pytest.raises(FormatError, match="another"):
        look(url, "")


def test_numbers_and_names_of_a_hostile_server_do_no_harm():
    metrics = INFO.replace('"m"', '"\x1b[31m[bold]\\n' + "x" * 500 + '"')
    metrics += "moeflux_generated_tokens_total NaN\nmoeflux_requests_running 1e999\n"
    metrics += 'moeflux_memory_bytes{kind="budget"} -5\nmoeflux_memory_bytes{kind="live"} 1e300\n'
    answers = {"/metrics": metrics.encode(), "/slots": b'[{"is_processing": "yes"}]',
               "/health": b'{"status": "\\u001b]0;title"}'}  # fmt: skip
    with pretending(answers) as (url, _):
        told = run(url, "--once", "--interval", "0.1")
        json.loads(run(url, "--once", "--json", "--interval", "0.1"))
    assert "\x1b" not in told and "[bold]" in told
    view(facts(seen(1.0), seen(2.0)), "here")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["http://127.0.0.1:1", "--once"], "found none"),
        (["ftp://x", "--once"], "url: expected"),
        (["--once", "--interval", "0"], "interval: expected"),
        (["--once", "--interval", "nan"], "interval: expected"),
        (["--json"], "expected --once with --json"),
        ([], "expected a terminal"),
    ],
)
def test_what_cannot_be_done_is_said(args, words):
    assert words in run(*args, status=1)


def test_errors_have_types():
    with pytest.raises(IoError):
        look("http://127.0.0.1:1", "")
    with pretending({}, 401) as (url, _), pytest.raises(SessionError):
        look(url, "")
