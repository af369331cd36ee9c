"""Downloads, against a small hub on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moeflux
from moeflux import hub
from oracle import build
from support.fake_hub import FakeHub

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


@pytest.fixture
def run(fake, tmp_path):
    """Runs a command in a process of its own: huggingface_hub reads its settings at import."""

    def run(*args):
        environment = os.environ | {"HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "hf")}
        return subprocess.run(
            [sys.executable, "-m", "moeflux.cli", *args],
            env=environment, text=True, capture_output=True, timeout=120, check=False,
        )  # fmt: skip

    return run


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
    assert "Fetching" in done.stderr  # the progress of the download


def test_only_data_is_fetched(fake, run):
    assert run("info", REPO).returncode == 0
    assert fake.fetched and all(name.endswith((".json", ".safetensors")) for name in fake.fetched)


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
        (["org/none"], ["org/none", "RepositoryNotFound"]),
        ([REPO, "--revision", "v9"], [REPO, "v9", "RevisionNotFound"]),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(run, args, words):
    done = run("info", *args)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1
    assert all(word in lines[0] for word in words)


@pytest.mark.parametrize(
    ("args", "words"),
    [(["info", REPO], "[remote] cannot read the headers of org/tiny"),
     (["generate", "abc", "-m", REPO], "[hub] cannot fetch org/tiny")],
)  # fmt: skip
def test_a_hub_that_is_not_there_is_one_sentence(tmp_path, args, words):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", *args],
        env=environment, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith(f"moeflux: {words}")
    assert len(done.stderr.strip().splitlines()) == 1


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
    with pytest.raises(moeflux.IoError, match="expected a checkpoint folder or a hub id"):
        hub.resolve(name)


def test_a_folder_of_ones_own_has_no_revision(folders):
    assert moeflux.load(folders["v1"], memory="128MiB", context=32).revision is None


def test_a_folder_may_begin_with_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "~nobody-of-this-name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("~nobody-of-this-name") == Path("~nobody-of-this-name")
