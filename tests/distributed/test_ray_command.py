"""`moeflux serve --ray` as a process, and the file for `serve deploy`."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from moeflux import FormatError
from moeflux.distributed import ray_serve
from support.commands import run_moeflux

FILE = Path(__file__).parents[2] / "packaging" / "ray_serve.yaml"
FLAGS = ["--memory", "64MiB", "--context", "512", "--threads", "1", "--port", "0"]


@contextlib.contextmanager
def server(*flags):
    """A server of the chat demo in processes of Ray: its own process and its address."""
    command = [sys.executable, "-m", "moeflux.cli", "serve", "demo-chat", "--ray", *FLAGS, *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = []
            for line in process.stderr:  # Ray says things, too
                lines.append(line)
                if found := re.search(r"\[demo-chat at (http://\S+); Ctrl-C ends\]", line):
                    yield process, found[1]
                    return
            raise AssertionError("".join(lines))
        finally:
            process.kill()


def ask(url, **more):
    message = {"role": "user", "content": "What is a mutex?"}
    body = {"messages": [message], "temperature": 0, "max_tokens": 64, **more}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(),
                                     {"content-type": "application/json"})  # fmt: skip
    return urllib.request.urlopen(request, timeout=120)


def test_a_server_in_processes_of_ray_answers_and_finishes_what_a_signal_meets():
    with server("--replicas", "2", "--drain", "60") as (process, url):
        with ask(url) as answer:
            said = json.load(answer)["choices"][0]
        assert said["message"]["content"].startswith("A mutex is a lock"), said
        with ask(url, stream=True, max_tokens=300, ignore_eos=True) as answer:
            answer.readline()
            process.send_signal(signal.SIGTERM)
            lines = [line for line in answer if line.startswith(b"data: ")]
        assert lines[-1].strip() == b"data: [DONE]"
        ends = [choice["finish_reason"] for line in lines[:-1]
                for choice in json.loads(line[6:])["choices"]]  # fmt: skip
        assert [end for end in ends if end] == ["length"]
        assert process.wait(60) == 0


def test_flags_of_replicas_are_refused_in_a_sentence():
    for flags, says in (("--replicas 2", "expected --ray with it"),
                        ("--ray --replicas 0", "replicas: expected"),
                        ("--ray --replicas 3 --most-replicas 2", "most: expected 3")):  # fmt: skip
        done = run_moeflux("serve", "demo-chat", "--port", "0", *flags.split())
        assert done.returncode == 1 and says in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1


def test_the_file_for_serve_deploy_is_one_and_its_arguments_are_those_of_the_application():
    said = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text()))
    [one] = said.applications
    module, _, name = one.import_path.partition(":")
    assert getattr(sys.modules[module], name) is ray_serve.application
    assert ray_serve.application(one.args) is not None
    with pytest.raises(FormatError, match="most"):
        ray_serve.application({**one.args, "most": 1})
