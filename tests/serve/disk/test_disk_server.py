"""A server with prompts on disk: its end, its signals, its flags."""

import contextlib
import http.client
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from moeflux import SessionError
from moeflux.serve.local import EngineSettings
from serve.test_serve_command import ask, server
from support.commands import run_moeflux

SHARED = [int(i) for i in np.random.Generator(np.random.PCG64(4)).integers(300, 3000, 500)]


def completion(url, last):
    """Text, tokens of the prompt and those of them that were cached; and the metrics."""
    body = {"prompt": [*SHARED, *last], "max_tokens": 32, "temperature": 0, "ignore_eos": True}
    with ask(f"{url}/v1/completions", body) as response:
        found = json.load(response)
    usage = found["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    with ask(f"{url}/metrics") as response:
        metrics = response.read().decode()
    return found["choices"][0]["text"], usage["prompt_tokens"], cached, metrics


def test_a_server_that_is_told_to_end_remembers_and_one_that_is_killed_does_no_harm(tmp_path):
    flags = ("--cache-dir", str(tmp_path / "kept"), "--cache-disk", "64MiB")
    with server(*flags) as (process, url):
        completion(url, [301])
        text, n, cached, _ = completion(url, [302])  # what both begin with is worth a snapshot
        assert (n, cached) == (501, 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not process.stderr.read()
    with server(*flags) as (process, url):
        again, _, cached, metrics = completion(url, [302])
        assert (again, cached) == (text, 500)
        assert 'moeflux_prompt_tokens_total{source="disk"} 500.0' in metrics
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
        process.kill()
        process.wait(60)
    with server(*flags) as (process, url):
        again, _, cached, _ = completion(url, [302])
        assert (again, cached) == (text, 500)


@pytest.mark.parametrize("which", ["read", "write"])
def test_a_second_signal_ends_what_a_disk_does(tmp_path, which, monkeypatch):
    """A disk that never gets done, and only a second signal tells it to stop."""
    folder, code = tmp_path / "kept", tmp_path / "code"
    if which == "read":
        with server("--cache-dir", str(folder)) as (process, url):
            completion(url, [301])
            completion(url, [302])
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    code.mkdir()
    (code / "sitecustomize.py").write_text(ENDLESS.format(which=which, begun=str(tmp_path / "x")))
    path = os.pathsep.join((str(code), os.environ.get("PYTHONPATH", "")))
    monkeypatch.setenv("PYTHONPATH", path)
    with server("--cache-dir", str(folder)) as (process, url):
        if which == "read":
            asked = threading.Thread(target=failing, args=(url, [303]))
            asked.start()
        else:
            completion(url, [301])
            completion(url, [302])
            process.send_signal(signal.SIGTERM)
        while not (tmp_path / "x").exists() and process.poll() is None:
            time.sleep(0.01)
        if which == "read":
            process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        if which == "read":
            asked.join(60)


def failing(url, last):
    with contextlib.suppress(OSError, http.client.HTTPException):
        completion(url, last)


ENDLESS = """
import pathlib, time
from moeflux.serve.disk_cache import DiskCache

def endless(*args):
    pathlib.Path({begun!r}).touch()
    while True:
        args[-1](0, 1)
        time.sleep(0.01)

DiskCache.{which} = endless
"""


def test_the_command_refuses_folders_and_sizes(tmp_path):
    (tmp_path / "file").write_text("")
    for flags, words in ((("--cache-dir", str(tmp_path / "file")), "cannot keep prompts"),
                         (("--cache-disk", "25%"), "cache_disk: expected None or")):  # fmt: skip
        done = run_moeflux("serve", "--memory", "24MiB", "--context", "64", "--port", "0", *flags)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("bad", [
    {"cache_disk": "25%"}, {"cache_disk": "much"}, {"cache_dir": 3}, {"cache_dir": ""},
    {"cache_disk": "8GiB"}, {"cache_writes": "8GiB"}, {"cache_writes": "much", "cache_dir": "x"},
])  # fmt: skip
def test_settings_are_checked(bad):
    with pytest.raises(SessionError, match=next(iter(bad))):
        EngineSettings(**bad)
