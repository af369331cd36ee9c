"""`moeflux launch`: what an agent is told, which server it asks, and how both end."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moeflux.commands.launch import _there
from moeflux.errors import SessionError
from moeflux.launch import server
from moeflux.launch.agents import AGENTS, CLOUD, arguments, environment
from moeflux.launch.run import Signals, installed
from moeflux.launch.server import Served, base, find, started

AGENT = """#!{python}
import json, os, signal, sys, urllib.request
if "wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    print("ready", flush=True)
    signal.pause()
url = os.environ.get("ANTHROPIC_BASE_URL")
health = json.load(urllib.request.urlopen(url + "/health")) if "ask" in sys.argv else None
print(json.dumps([sys.argv[1:], dict(os.environ), health]))
sys.exit(7)
"""
MODELS = {"data": [{"id": "m", "meta": {"context": 4096}}]}
OK = {"status": "ok", "models": {"m": {}}}


@pytest.fixture
def programs(tmp_path):
    """A folder with the three agents, which print what they are told and end with 7."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in AGENTS:
        (folder / name).write_text(AGENT.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return folder


@contextlib.contextmanager
def answering(answers):
    """The URL of a server that answers paths with a status and JSON, and the headers it saw."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            status, body, *moved = answers.get(self.path, (404, {}))
            self.send_response(status)
            for place in moved:
                self.send_header("Location", place)
            self.end_headers()
            self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}", seen
        listener.shutdown()


SERVES = {"/health": (200, OK), "/v1/models": (200, MODELS)}


def launch(programs, *arguments, **more):
    command = [sys.executable, "-m", "moeflux.cli", "launch", *arguments]
    inner = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **more}
    return subprocess.Popen(
        command, env=inner, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def told(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_is_told_of_the_server_alone(name):
    outer = dict.fromkeys(CLOUD, "a cloud's") | {"MINE": "1", "NO_PROXY": "example.org"}
    served = Served("http://10.0.0.7:1", "secret", "m", 4096)
    found = environment(AGENTS[name], served, outer)
    assert found["MINE"] == "1" and "a cloud's" not in found.values()
    assert found["NO_PROXY"] == "example.org,10.0.0.7" and found["no_proxy"] == "10.0.0.7"
    assert not set(CLOUD) & set(found) - set(AGENTS[name].environment)
    told = json.dumps([arguments(AGENTS[name], served), found])
    assert all(fact in told for fact in ("http://10.0.0.7:1", "secret", "4096"))


def test_an_agent_is_given_its_arguments_and_its_status_comes_back(programs):
    more = {"http_proxy": "http://127.0.0.1:1", "ANTHROPIC_API_KEY": "a cloud's"}
    with answering(SERVES) as (url, _):
        status, out, err = told(launch(programs, "claude", "--url", f"{url}/v1", "--", "-p", "hi",
                                       **more))  # fmt: skip
    assert status == 7, err
    given, found, _ = json.loads(out)
    assert given == ["-p", "hi"] and found["ANTHROPIC_BASE_URL"] == url
    assert found["ANTHROPIC_MODEL"] == "m" and "ANTHROPIC_API_KEY" not in found


def test_a_server_is_started_for_an_agent_and_ends_with_it(programs):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--memory", "24MiB", "--context", "512", "--api-key", "secret"]
    status, out, err = told(launch(programs, "claude", *flags, "--chat-template", "chatml", "--",
                                   "ask"))  # fmt: skip
    assert status == 7, err
    _, found, health = json.loads(out)
    assert health["status"] == "ok" and list(health["models"]) == [found["ANTHROPIC_MODEL"]]
    assert found["ANTHROPIC_AUTH_TOKEN"] == "secret"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_server_runs_nothing_of_the_folder_that_it_is_started_in(programs, tmp_path):
    """A repository in which an agent is run may be a stranger's."""
    trap = tmp_path / "trap"
    (trap / "moeflux").mkdir(parents=True)
    sprung = tmp_path / "sprung"
    spring = f"open({str(sprung)!r}, 'a').write(__name__ + ' ')\nraise SystemExit(3)\n"
    for name in ("typer", "uvicorn", "fastapi", "numpy", "json", "moeflux/__init__", "moeflux/cli"):
        (trap / f"{name}.py").write_text(spring)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--memory", "24MiB", "--context", "512", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    for safe in ("", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(trap)
            patch.setenv("PYTHONSAFEPATH", safe)
            with started(url, "", [*flags, "--chat-template", "chatml"], None) as served:
                assert served.context == 512
    assert not sprung.exists()


def test_a_server_that_ended_is_not_taken_for_another_on_its_port():
    with answering(SERVES) as (url, _):
        port = url.rpartition(":")[2]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "COMMAND", "raise SystemExit(4)")
            patch.setattr(server, "find", lambda *_: time.sleep(1) or find(url, ""))
            with (
                pytest.raises(SessionError, match="ended with status 4"),
                started(url, "", ["--port", port], None),
            ):
                pass


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(server, "COMMAND", "import time; time.sleep(600)")
    monkeypatch.setattr(server, "START", 0.3)
    with (
        pytest.raises(SessionError, match="did not answer within 0 seconds"),
        started("http://127.0.0.1:1", "", [], None),
    ):
        pass


def test_a_server_that_cannot_start_says_why(programs):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        flags = ["--port", port, "--memory", "24MiB", "--context", "512"]
        status, out, err = told(launch(programs, "codex", *flags))
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err and "ended with status 1" in err


def test_a_signal_reaches_the_agent(programs):
    with answering(SERVES) as (url, _):
        process = launch(programs, "claude", "--url", url, "--", "wait")
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert told(process)[0] == 9


def test_an_agent_that_a_signal_ends_has_a_shells_status():
    assert Signals().run(["sh", "-c", "kill -KILL $$"], os.environ) == 137


def test_a_signal_before_the_agent_runs_ends_the_server(programs, tmp_path):
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--memory", "24MiB", "--context", "512", "--log", str(log)]
    process = launch(programs, "claude", *flags)
    while not log.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    status, out, _ = told(process)
    assert (status, out) == (143, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_an_agent_that_is_not_there_is_told_how_to_come(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SessionError, match="codex on PATH, found none; npm install -g @openai"):
        installed("codex")
    with pytest.raises(SessionError, match="expected one of claude, codex, opencode, found 'gpt'"):
        installed("gpt")


REFUSED = [
    ({"/health": (503, OK | {"status": "draining"})}, "takes no requests: its state is draining"),
    ({"/health": (200, OK), "/v1/models": (401, {})}, "wants a key: --api-key"),
    (SERVES, "serves m, not some/other: --url"),
]


@pytest.mark.parametrize(("answers", "says"), REFUSED)
def test_a_server_that_will_not_do_is_refused(answers, says):
    with answering(answers) as (url, _), pytest.raises(SessionError, match=says):
        _there(None, int(url.rpartition(":")[2]), "", "some/other")


def test_a_server_that_is_named_must_be_there_and_may_have_any_model():
    with answering(SERVES) as (url, _):
        assert _there(url, 1, "", "some/other") == Served(url, "", "m", 4096)
        assert _there(None, int(url.rpartition(":")[2]), "", "some/m").model == "m"
    with pytest.raises(SessionError, match=f"expected a server at {url}, found none"):
        _there(url, 1, "", None)


OTHERS = [
    {},
    {"/health": (200, [])},
    {"/health": (200, b"\xff")},
    {"/health": (200, {"models": 1})},
    {"/health": (200, OK), "/v1/models": (200, {"data": []})},
]


@pytest.mark.parametrize("answers", OTHERS)
def test_another_program_on_the_port_is_no_server(answers):
    with answering(answers) as (url, _):
        assert find(url, "") is None


def test_a_key_is_sent_for_the_models_alone():
    with answering(SERVES) as (url, seen):
        assert find(url, "secret") == Served(url, "secret", "m", 4096)
    assert [headers.get("X-Api-Key") for headers in seen] == [None, "secret"]


def test_a_key_is_not_sent_on_by_a_redirect():
    with answering(SERVES) as (other, seen):
        moves = {"/health": (200, OK), "/v1/models": (302, {}, f"{other}/v1/models")}
        with answering(moves) as (url, _):
            assert find(url, "secret") is None
    assert not seen


def test_an_answer_that_drips_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(server, "ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as dripping:

        def drip():
            asker, _ = dripping.accept()
            with asker, contextlib.suppress(OSError):
                for _ in range(50):
                    asker.sendall(b"H")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        begin = time.monotonic()
        assert find(f"http://127.0.0.1:{dripping.getsockname()[1]}", "") is None
    assert time.monotonic() - begin < 3


def test_the_page_names_all_that_is_kept_from_an_agent():
    page = (Path(__file__).parents[2] / "docs/server.md").read_text()
    assert not [name for name in CLOUD if f"`{name}`" not in page]


def test_a_name_of_a_model_cannot_add_settings():
    name = 'a" \\ {url} \N{SNOWMAN}\n[x]\ny="'
    served = Served("http://127.0.0.1:1", "", name, 512)
    given = dict(part.split("=", 1) for part in arguments(AGENTS["codex"], served)[1::2])
    assert json.loads(given["model"]) == name and "\n" not in given["model"]
    inner = environment(AGENTS["opencode"], served, {})
    config = json.loads(inner["OPENCODE_CONFIG_CONTENT"])
    assert config["model"] == f"moeflux/{name}"
    assert list(config["provider"]["moeflux"]["models"]) == [name]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:99999"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(SessionError, match="expected one such as"):
        base(url)
