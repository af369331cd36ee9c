"""`chat --resume`: a full disk, kills, resets and second chats cost no talk and no kept state."""

import contextlib
import os
import subprocess
import sys
import threading
import tracemalloc

import pytest

import moeflux
from moeflux import conversation, saved
from moeflux.commands import chat, kept
from moeflux.conversation import Conversation, state_beside
from moeflux.snapshot import read_note
from oracle import build
from support.privileges import dropped

GREEDY = {"max_tokens": 5, "temperature": 0.0}


@pytest.fixture(scope="module", params=["qwen3_next", "qwen3_moe"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "m"
    return build(path, family=request.param, form="mlx-q4")


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, memory="128MiB", context=256)


def said(model, path):
    """The questions that a file has, and how many tokens of state come with it."""
    talk = Conversation.read(model, path)
    return [m["content"] for m in talk.messages if m["role"] == "user"], talk.n_held


class Killed(BaseException):
    """What nothing in the program catches."""


def chatted(monkeypatch, model, path, *lines, at_end=None):
    """The command's loop over these lines; a function among them is called in its place."""
    waiting = iter(lines)

    def ask(*_):
        while callable(line := next(waiting, "/exit")):
            line()
        return line

    monkeypatch.setattr(chat, "_ask", ask)
    talk = Conversation.read(model, path) if path.exists() else Conversation(model)
    chat._talk(talk, GREEDY, path)
    return talk


def killed():
    raise Killed


def test_a_kill_after_an_answer_leaves_the_state_of_before(tmp_path, model, monkeypatch):
    path = tmp_path / "talk"
    chatted(monkeypatch, model, path, "one")
    _, n_held = said(model, path)
    assert n_held > 0
    with pytest.raises(Killed):
        chatted(monkeypatch, model, path, "two", "six", killed)
    assert said(model, path) == (["one", "two", "six"], n_held)
    expected = moeflux.generate(
        model,
        messages=[*Conversation.read(model, path).messages, {"role": "user", "content": "x"}],
        **GREEDY,
    )
    talk = chatted(monkeypatch, model, path, "x")
    assert talk.messages[-1]["content"] == expected
    assert said(model, path)[1] > n_held
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk"]


def test_a_state_beside_that_is_another_models_or_damaged_is_not_taken(tmp_path, model):
    path = tmp_path / "talk"
    Conversation(model).write(path, state=False)
    for data in (b"", b"no state", path.read_bytes()):
        state_beside(path).write_bytes(data)
        assert said(model, path) == ([], 0)


def test_a_reset_keeps_the_file_until_something_is_answered(tmp_path, model, monkeypatch):
    path = tmp_path / "talk"
    chatted(monkeypatch, model, path, "one")
    before = path.read_bytes()
    chatted(monkeypatch, model, path, "/reset")
    chatted(monkeypatch, model, path, "/reset", "x" * 300)  # too long for the context
    assert path.read_bytes() == before
    chatted(monkeypatch, model, path, "two", "/reset")
    assert said(model, path)[0] == ["one", "two"]
    chatted(monkeypatch, model, path, "/reset", "six")
    assert said(model, path)[0] == ["six"]


def test_a_disk_that_fills_does_not_end_the_chat(tmp_path, model, monkeypatch, capsys):
    path = tmp_path / "talk"
    chatted(monkeypatch, model, path, "one")
    before, write = path.read_bytes(), saved.write
    full = [True]

    def filled(*args):
        if full[0]:
            raise moeflux.IoError("[snapshot] cannot write: No space left on device")
        write(*args)

    def still():
        assert path.read_bytes() == before

    monkeypatch.setattr(saved, "write", filled)
    chatted(monkeypatch, model, path, "two", still, "six", still, full.pop,
            lambda: full.append(False), "x")  # fmt: skip
    assert said(model, path)[0] == ["one", "two", "six", "x"]
    assert capsys.readouterr().err.count("No space left on device; the talk goes on") == 2
    full[0] = True
    with pytest.raises(moeflux.IoError):  # at the end there is no other time
        chatted(monkeypatch, model, path, "y")


def test_messages_are_kept_where_the_state_finds_no_room(tmp_path, model, monkeypatch, capsys):
    path, write = tmp_path / "talk", saved.write

    def small(path, header, *args):
        if header.state_bytes:
            raise moeflux.IoError("[snapshot] the disk is short")
        write(path, header, *args)

    monkeypatch.setattr(saved, "write", small)
    chatted(monkeypatch, model, path, "one")
    assert said(model, path) == (["one"], 0)
    assert capsys.readouterr().err.count("the disk is short") == 1


def test_a_folder_that_takes_no_file_is_refused_before_a_model_is_loaded(tmp_path, model):
    os.chmod(tmp_path, 0o755)
    inner = tmp_path / "inner"
    inner.mkdir()
    Conversation(model).write(inner / "talk")
    os.chmod(inner / "talk", 0o644)
    (tmp_path / "link").symlink_to("inner/talk")
    os.chmod(inner, 0o555)
    with contextlib.ExitStack() as stack:
        stack.callback(os.chmod, inner, 0o755)
        for parent in tmp_path.parents[:2]:
            stack.callback(os.chmod, parent, parent.stat().st_mode)
            os.chmod(parent, 0o755)
        stack.enter_context(dropped())
        if os.geteuid() == os.getuid() == 0:
            pytest.skip("the superuser may write everywhere")
        for path in (inner / "talk", inner / "new", tmp_path / "link"):
            with pytest.raises(moeflux.IoError, match="expected a folder to write to"):
                kept.refuse(path)


def test_messages_of_many_bytes_are_refused_before_they_are_read(tmp_path, model):
    path, most = tmp_path / "talk", conversation.MAX_TALK_BYTES
    talk = Conversation(model)
    talk.messages = [{"role": "user", "content": "x" * most}]
    with pytest.raises(moeflux.SessionError, match=f"messages of at most {most} bytes, found"):
        talk.write(path)
    talk.messages[0]["content"] = "x" * (most - 100)
    talk.write(path)
    assert Conversation.read(model, path).messages == talk.messages
    model.session().save().write(path, note='{"system": null, "talk": [' + "{}," * most + "{}]}")
    for place in (path, state_beside(path)):
        os.replace(path, place)
        Conversation(model).write(path) if place != path else None
        tracemalloc.start()
        try:
            with pytest.raises(moeflux.FormatError, match=f"a note of at most {most} bytes, found"):
                read_note(model, place, most)
            if place == path:
                with pytest.raises(moeflux.FormatError, match="a note of at most"):
                    Conversation.read(model, path)
            else:
                assert Conversation.read(model, path).messages == []
            assert tracemalloc.get_traced_memory()[1] < most
        finally:
            tracemalloc.stop()


def test_a_second_chat_on_one_file_is_refused(tmp_path, folder):
    command = [sys.executable, "-u", "-m", "moeflux.cli", "chat", "-m", str(folder), "-n", "5",
               "--context", "256", "--resume", str(tmp_path / "talk")]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        while "/reset starts over" not in (line := process.stderr.readline()):
            assert line
        second = subprocess.run(command, input="one\n", capture_output=True, text=True, timeout=120)
        assert second.returncode == 1 and "expected a talk that no other chat" in second.stderr
        _, err = process.communicate("one\n", timeout=60)
        assert process.returncode == 0, err
    finally:
        process.kill()
        watchdog.cancel()
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk"]
