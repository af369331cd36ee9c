"""`moeflux serve` as a process: flags, metrics, and how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

import moeflux
from moeflux import IoError, SessionError
from moeflux.commands.serve import _keys, seconds
from moeflux.serve.engine import Health
from moeflux.serve.run import FAILED, bind, run
from support.commands import run_moeflux

PROMPT = "The following example"


@contextlib.contextmanager
def server(*flags):
    """A server of the demo model: its process and its address."""
    command = [sys.executable, "-m", "moeflux.cli", "serve", "--memory", "24MiB", "--context",
               "1024", "--port", "0", *flags]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            found = re.fullmatch(r"\[demo at (http://127\.0\.0\.1:\d+); Ctrl-C ends\]\n", line)
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


def ask(url, body=None, key=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60)


def until_first_token(stream):
    """Reads events up to the first with text."""
    for line in stream:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
            return line
    raise AssertionError("no token came")


STREAM = {"prompt": PROMPT, "temperature": 0, "max_tokens": 120, "stream": True}


def test_a_server_answers_tells_metrics_and_ends_gracefully():
    with server("--max-running", "3") as (process, url):
        said = json.load(ask(f"{url}/v1/completions", STREAM | {"stream": False}))
        expected = moeflux.generate(moeflux.load(memory="24MiB", context=1024), PROMPT,
                                    max_tokens=120)  # fmt: skip
        assert said["choices"][0]["text"] == expected
        metrics = ask(f"{url}/metrics").read().decode()
        assert 'moeflux_requests_total{api="completions",code="200"} 1.0' in metrics
        assert "moeflux_generated_tokens_total 120.0" in metrics
        stream = ask(f"{url}/v1/completions", STREAM)
        first = until_first_token(stream)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in stream if line.startswith(b"data: ")]
        events = [json.loads(line[6:]) for line in [first, *rest[:-1]]]
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        assert text == expected and rest[-1].strip() == b"data: [DONE]"
        assert process.wait(30) == 0


def test_a_second_signal_does_not_wait_for_answers():
    with server("--drain", "60") as (process, url):
        stream = ask(f"{url}/v1/completions", STREAM | {"max_tokens": 1000})
        until_first_token(stream)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            stream.read()
        assert process.wait(30) in (0, -signal.SIGINT, 130)


def test_metrics_need_the_key_where_there_is_one_and_the_page_can_be_left_out():
    with server("--api-key", "secret", "--no-page") as (_, url):
        assert ask(url).read().startswith(b"moeflux serves demo")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{url}/metrics")
        assert b"moeflux_requests_running" in ask(f"{url}/metrics", key="secret").read()


BAD_FLAGS = {
    "--max-running": ("many", "max_running: expected auto or a number"),
    "--queue-timeout": ("-1", "queue_timeout: expected None or a number of seconds above 0"),
    "--request-timeout": ("soon", "request_timeout: expected a number of seconds, or none"),
    "--cache-memory": ("200%", "cache_memory: expected a size"),
    "--cache-disk": ("8GiB", "expected a cache_dir with it"),
    "--cache-dir": ("", "cache_dir: expected None or a path"),
    "--api-key-file": ("/nowhere", "cannot read /nowhere"),
    "--host": ("0.0.0.0", "expected an api key"),
    "--max-body": ("huge", "expected a size"),
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_a_bad_flag_is_refused_in_a_sentence_before_the_load(flag):
    value, says = BAD_FLAGS[flag]
    done = run_moeflux("serve", "/no/model", flag, value)
    assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "wanted"), [("600", 600.0), ("0.5", 0.5), ("0", None), ("0.0", None), ("none", None)]
)
def test_a_bound_of_time_can_be_turned_off(text, wanted):
    assert seconds("queue_timeout", text) == wanted


@pytest.mark.parametrize("bound", ["0", "none"])
def test_a_server_without_bounds_of_time_answers(bound):
    with server("--queue-timeout", bound, "--request-timeout", bound) as (_, url):
        said = json.load(ask(f"{url}/v1/completions", STREAM | {"stream": False, "max_tokens": 3}))
    assert said["usage"]["completion_tokens"] == 3


def test_keys_come_from_flags_or_the_environment_and_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEFLUX_API_KEY", "a b")
    assert _keys(None, None) == ("a b",) and _keys(["c"], None) == ("c",)
    (tmp_path / "keys").write_text("one\n\n two \n")
    assert _keys(["c"], tmp_path / "keys") == ("c", "one", "two")
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(SessionError, match="empty: expected a key a line, found none"):
        _keys(["c"], tmp_path / "empty")
    monkeypatch.delenv("MOEFLUX_API_KEY")
    assert _keys(None, None) == ()


def test_an_address_that_is_taken_is_refused():
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(IoError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already"),
    ):
        bind("127.0.0.1", other.getsockname()[1])


class Broken:
    """An engine whose thread has ended."""

    drained = False

    def health(self):
        return Health("failed")

    async def drain(self, seconds):
        self.drained = True


def test_a_server_whose_engine_has_failed_ends_with_a_status_of_its_own():
    app = FastAPI()
    app.add_api_route("/", lambda: PlainTextResponse("here"))
    engine, found = Broken(), []
    thread = threading.Thread(
        target=lambda: found.append(run(app, [engine], bind("127.0.0.1", 0), 0.1)), daemon=True
    )
    thread.start()
    thread.join(30)
    assert found == [FAILED] == [os.EX_SOFTWARE] and engine.drained
