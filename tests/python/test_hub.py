"""Downloads, against a small hub on loopback."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import moeflux
from moeflux import hub
from oracle import build
from support.commands import run_moeflux
from support.fake_hub import FakeHub
from support.few import few

REPO = "org/tiny"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    folders = {
        "main": build(root / "main", family="qwen3_next", form="mlx-q4"),
        "v1": build(root / "v1", family="qwen3_moe", form="mlx-q4"),
    }
    (folders["main"] / "modeling_tiny.py").write_text("raise SystemExit('remote code ran')")
    (folders["main"] / "pytorch_model.bin").write_bytes(b"pickle")
    return folders


@pytest.fixture
def fake(folders):
    with FakeHub(REPO, folders) as server:
        yield server


def environment(fake, tmp_path):
    return os.environ | {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def run(fake, tmp_path):
    """Runs a command in a process of its own: huggingface_hub reads its settings at import."""
    return lambda *args: run_moeflux(*args, env=environment(fake, tmp_path))


SMALL = ["--memory", "128MB", "--context", "64", "-n", "3", "--json"]


def test_a_hub_id_is_fetched_once_runs_and_shows_its_commit(fake, run):
    answers = []
    for _ in range(2):
        done = run("generate", "abc", "-m", REPO, *SMALL)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
        assert answers[-1]["revision"] == fake.commits["main"]
    assert answers[0]["tokens"] == answers[1]["tokens"]
    assert set(fake.fetched.values()) == {1}


def test_a_download_shows_its_progress_on_a_terminal(fake, tmp_path):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", "generate", "abc", "-m", REPO, *SMALL],
        env=environment(fake, tmp_path), stdout=subprocess.DEVNULL, stderr=follower, timeout=120,
        check=False,
    )  # fmt: skip
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert done.returncode == 0 and "Fetching" in shown


def test_a_download_into_a_pipe_shows_no_bars(run):
    done = run("generate", "abc", "-m", REPO, *SMALL)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("command", ["info", "generate"])
def test_only_data_is_fetched(fake, run, command):
    args = ["info", REPO] if command == "info" else ["generate", "abc", "-m", REPO, *SMALL]
    assert run(*args).returncode == 0
    assert fake.fetched and all(name.endswith((".json", ".safetensors")) for name in fake.fetched)


def test_weights_in_folders_of_a_repository_are_left_there(fake, run):
    fake.listed = ["original/model.safetensors"]  # as in gpt-oss'
    done = run("generate", "abc", "-m", REPO, *SMALL)
    assert done.returncode == 0, done.stderr
    assert not [path for path in fake.paths if "original" in path]


def test_chat_templates_in_a_folder_are_fetched(fake, run):
    fake.listed = ["additional_chat_templates/tool_use.jinja"]  # which this hub has not
    run("generate", "abc", "-m", REPO, *SMALL)
    assert [path for path in fake.paths if path.endswith(fake.listed[0])]


@pytest.mark.parametrize("pin", ["v1", "commit"])
def test_a_revision_is_pinned_by_name_or_commit(fake, run, pin):
    pin = fake.commits["v1"] if pin == "commit" else pin
    done = run("generate", "abc", "-m", REPO, "--revision", pin, *SMALL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"] == fake.commits["v1"]
    assert fake.commits["v1"][:8] in run("info", REPO, "--revision", pin).stdout


def test_a_download_that_broke_off_goes_on_with_the_files_that_are_missing(fake, run):
    broken = "model-00002-of-00002.safetensors"
    fake.cut = (broken, 100_000)
    done = run("generate", "abc", "-m", REPO, *SMALL)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("moeflux: [hub] cannot fetch")
    assert fake.fetched[broken] > 1  # it tried again by itself
    fake.cut = None
    fake.fetched.clear()
    done = run("generate", "abc", "-m", REPO, *SMALL)
    assert done.returncode == 0, done.stderr
    assert dict(fake.fetched) == {broken: 1}


def test_offline_asks_nobody_and_says_what_is_missing(fake, run):
    done = run("info", REPO, "--offline")
    assert done.returncode == 1 and "offline" in done.stderr and not fake.fetched
    assert run("info", REPO).returncode == 0
    assert not any("safetensors" in name and count > 1 for name, count in fake.fetched.items())
    assert run("generate", "abc", "-m", REPO, *SMALL).returncode == 0
    fetched = fake.fetched.copy()
    done = run("generate", "abc", "-m", REPO, "--offline", *SMALL)
    assert done.returncode == 0, done.stderr
    assert fake.fetched == fetched


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["org/none"], ["org/none", "the hub has no such model"]),
        ([REPO, "--revision", "v9"], [REPO, "v9", "no such revision"]),
    ],
)
@pytest.mark.parametrize("command", [["info"], ["generate", "abc", "-m"]])
def test_what_the_hub_does_not_have_is_one_sentence(run, command, args, words):
    done = run(*command, *args)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in [*words, "no such folder either"])


COMMANDS = [["info"], ["plan"], ["generate", "abc", "-m"]]


@pytest.mark.parametrize("command", few(1, COMMANDS))
@pytest.mark.parametrize("setting", ["no network", "HF_HUB_OFFLINE", "--offline"])
def test_a_hub_that_is_not_there_is_one_sentence(tmp_path, command, setting):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    if setting == "HF_HUB_OFFLINE":
        environment[setting] = "1"
    offline = ["--offline"] * (setting[0] == "-")
    done = run_moeflux(*command, REPO, *offline, env=environment)
    what = "read the headers of" if setting[0] == "n" and command[0] != "generate" else "fetch"
    why = {"no network": "the hub cannot be reached", "HF_HUB_OFFLINE": "HF_HUB_OFFLINE is set",
           "--offline": "no hub was asked"}[setting]  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"] cannot {what} org/tiny" in done.stderr and why in done.stderr
    assert "no such folder either" in done.stderr
    for foreign in ("Error", "Got:", "local_files_only", "Errno"):
        assert foreign not in done.stderr


def test_a_repository_without_a_config_is_one_sentence(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    with FakeHub(REPO, {"main": folder}) as server:
        done = run_moeflux("info", REPO, env=environment(server, tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the model has no config.json" in done.stderr


def test_other_peoples_tracebacks_are_not_shown_above_ours(tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", f"import moeflux; moeflux.load({REPO!r})"],
        env=environment, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1].startswith("moeflux.errors.DownloadError: [hub] cannot")


@pytest.mark.parametrize("command", few(1, COMMANDS))
@pytest.mark.parametrize(
    "name",
    [
        "models/qwen",
        "org/config.json",
        "org/x.SafeTensors",
        "org/x.gguf",
        "a/b/c",
        "./x",
        "../x",
        "~/x",
        "a/b/c:Q8_0",
    ],
)
def test_names_on_this_disk_are_told_to_no_hub(tmp_path, command, name):
    """`models` is a folder here, `qwen` is none in it: a slip of the keyboard."""
    (tmp_path / "models").mkdir()
    asked = FakeHub(".*/.*", {})
    with asked:
        done = run_moeflux(*command, name, cwd=tmp_path, env=environment(asked, tmp_path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "a GGUF file or a hub id owner/name" in done.stderr
    assert ("models is a folder here" in done.stderr) == name.startswith("models")
    assert not asked.paths


def test_a_file_of_a_checkpoint_is_no_folder(folders, monkeypatch):
    monkeypatch.chdir(folders["v1"].parent)
    with pytest.raises(moeflux.IoError, match=r"a GGUF file, found another file"):
        moeflux.load("v1/config.json")


def test_the_cache_of_the_hub_is_not_emptied_by_pack(run, tmp_path):
    """Its snapshots are links to blobs that other revisions use, too."""
    first = run("generate", "abc", "-m", REPO, *SMALL)
    (snapshot,) = (tmp_path / "hf").glob("hub/models--*/snapshots/*")
    done = run("pack", str(snapshot), str(tmp_path / "packed"), "--replace")
    assert done.returncode == 1 and "no other folder uses" in done.stderr
    again = run("generate", "abc", "-m", REPO, *SMALL)
    assert json.loads(again.stdout)["tokens"] == json.loads(first.stdout)["tokens"]
    assert run("pack", str(snapshot), str(tmp_path / "packed")).returncode == 0


def test_with_the_hub_switched_off_info_reads_what_the_cache_holds(fake, run, monkeypatch):
    assert run("generate", "abc", "-m", REPO, *SMALL).returncode == 0
    fetched = fake.fetched.copy()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run("info", REPO)
    assert done.returncode == 0, done.stderr
    assert "not here yet" not in done.stdout and fake.commits["main"] in done.stdout
    assert fake.fetched == fetched


def test_info_of_what_was_downloaded_needs_no_hub(fake, run, monkeypatch):
    assert run("generate", "abc", "-m", REPO, *SMALL).returncode == 0
    assert "not here yet" not in run("info", REPO).stdout
    monkeypatch.setattr(type(fake), "url", "http://127.0.0.1:9")
    done = run("info", REPO)
    assert done.returncode == 0, done.stderr
    assert "not here yet" not in done.stdout and fake.commits["main"] in done.stdout


@pytest.mark.parametrize("name", ["../etc", "a/b/c", "/no/such", "no such", "x", "https://a/b"])
def test_what_is_neither_folder_nor_hub_id_is_refused_without_asking(name):
    with pytest.raises(moeflux.IoError, match="a GGUF file or a hub id owner/name"):
        hub.resolve(name)


def test_a_folder_of_ones_own_has_no_revision(folders):
    assert moeflux.load(folders["v1"], memory="128MiB", context=32).revision is None


def test_a_commit_is_the_name_of_a_snapshot_and_of_no_other_folder():
    commit = "0123456789" * 4
    assert hub.commit_of(Path("snapshots", commit)) == commit
    assert hub.commit_of(Path("snapshots", "m.gguf")) is None
    assert hub.commit_of(Path("snapshots", commit, "Q4", "m.gguf")) == commit
    for own in (Path("models", commit), Path("snapshots", "main"), Path("snapshots", commit, "Q4")):
        assert hub.commit_of(own) is None


def test_a_folder_may_begin_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "~nobody-of-this-name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("~nobody-of-this-name") == Path("~nobody-of-this-name")
