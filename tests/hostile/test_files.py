"""What is no readable file: one typed sentence, from `load` and from every command."""

import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

import moeflux
from moeflux import cli
from moeflux.tokenizer import Tokenizer
from oracle import build
from support import odd_files, privileges
from support.few import few

ROOM = {"memory": "64MiB", "context": 64}
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
TEXT = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
COMMANDS = {
    "info": ["info", "{}"],
    "plan": ["plan", "{}", "--context", "64", "--disk-gb-s", "1", "--mem-gb-s", "10"],  # no probe
    "generate": ["generate", "a", "-m", "{}", "-n", "1", "--memory", "64MiB", "--context", "64"],
    "pack": ["pack", "{}", "{}-packed"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build(tmp_path_factory.mktemp("files") / "m", family="qwen3_moe", form="mlx-q4")


@pytest.fixture
def folder(source, tmp_path):
    (tmp_path / "m").mkdir()
    for path in source.iterdir():
        (tmp_path / "m" / path.name).symlink_to(path)
    return tmp_path / "m"


@contextmanager
def watched():
    """Ends what would wait or read for ever."""

    def ring(*_):
        raise AssertionError("no end in sight")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command on a folder in this process: (exit status, standard error)."""

    def run(command, folder):
        words = [word.format(folder) for word in COMMANDS[command]]
        monkeypatch.setattr(sys, "argv", ["moeflux", *words])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, capsys.readouterr().err

    return run


def is_one_sentence(status, stderr, *words):
    lines = stderr.strip().splitlines()
    assert status == 1 and len(lines) == 1 and lines[0].startswith("moeflux: [")
    assert all(word in lines[0] for word in words)


@pytest.mark.parametrize("kind", odd_files.KINDS)
@pytest.mark.parametrize("name", ["config.json", INDEX, SHARD])
def test_what_is_no_file_of_weights_is_refused_by_name(folder, name, kind):
    odd_files.put(folder / name, kind)
    with watched(), pytest.raises(moeflux.MoefluxError, match=rf"\(.*{name}"):
        moeflux.load(folder, **ROOM)


@pytest.mark.parametrize("kind", odd_files.KINDS)
@pytest.mark.parametrize("name", TEXT)
def test_what_is_no_file_of_text_is_refused_by_name(folder, name, kind):
    odd_files.put(folder / name, kind)
    with watched(), pytest.raises(moeflux.MoefluxError, match=rf"\(.*{name}"):
        Tokenizer(folder, {})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_permission_is_one_sentence(source, run, command, monkeypatch):
    with tempfile.TemporaryDirectory() as root:  # pytest's own folders are closed to others
        os.chmod(root, 0o755)
        locked = shutil.copytree(source, Path(root) / "m")
        monkeypatch.chdir(root)
        run(command, "/nowhere")  # imports what it imports with every permission
        for mode in (0o000, 0o600, 0o444):
            locked.chmod(mode)
            with privileges.dropped():
                with pytest.raises(moeflux.IoError, match="Permission denied"):
                    moeflux.load(locked, **ROOM)
                is_one_sentence(*run(command, locked), "Permission denied", str(locked))
                is_one_sentence(*run(command, "m/x"), "Permission denied", "m/x")  # or a hub id
        locked.chmod(0o755)
        monkeypatch.undo()


@pytest.mark.parametrize("command", few(2, COMMANDS))
def test_a_folder_whose_name_is_no_unicode_works_and_is_named(folder, run, command):
    odd = Path(os.fsdecode(os.fsencode(folder.parent) + b"/caf\xe9"))
    folder.rename(odd)
    assert moeflux.load(odd, **ROOM).session().step([1]).shape == (257,)
    status, stderr = run(command, odd)
    assert status == 0, stderr
    (odd / SHARD).unlink()
    is_one_sentence(*run(command, odd), SHARD, r"caf\udce9")


def test_what_the_engine_says_of_a_name_that_is_no_unicode_is_readable(folder):
    odd = Path(os.fsdecode(os.fsencode(folder.parent) + b"/caf\xe9"))
    folder.rename(odd)
    shard = odd / SHARD
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data)  # no link any more
    model = moeflux.load(odd, **ROOM)
    os.truncate(shard, 4096)
    with pytest.raises(moeflux.IoError, match=r"caf\\udce9"):
        model.session().step(list(range(50)))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["a" * 300, "\ud800", "a\0b"])
def test_a_shard_of_an_impossible_name_is_one_sentence(folder, run, name, command):
    index = json.loads((folder / INDEX).read_text())
    weight_map = index["weight_map"]
    weight_map |= {key: f"{name}.safetensors" for key in weight_map if weight_map[key] == SHARD}
    (folder / INDEX).unlink()
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(moeflux.IoError, match="missing"):
        moeflux.load(folder, **ROOM)
    is_one_sentence(*run(command, folder), "missing")


def test_an_end_of_text_that_is_no_unicode_is_no_token(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "\ud800"}))
    model = moeflux.load(folder, **ROOM)
    assert model.tokenizer.eos_ids == {256}  # generation_config.json's
    assert moeflux.generate(model, "ab", max_tokens=2) is not None


@pytest.mark.parametrize("command", ["info", "plan", "generate"])
def test_an_empty_name_is_not_the_current_folder(folder, run, command, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(moeflux.IoError, match="expected a checkpoint folder"):
        moeflux.load("", **ROOM)
    is_one_sentence(*run(command, ""), "expected a checkpoint folder")
