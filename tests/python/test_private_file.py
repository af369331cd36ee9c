"""Private files: symbolic links, what is no file, parts of writers that were killed, locks."""

import multiprocessing
import os
import shutil
import signal
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moeflux import IoError, durable, saved

EMPTY = saved.Header(model={}, position=0, n_tokens=0, note_bytes=2, state_bytes=0)


def write(path, note=b"hi"):
    saved.write(path, EMPTY, None, note, lambda begin, to: None)


def note_of(path):
    with saved.opened(path) as file:
        return file.note()


def test_a_symbolic_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/talk")
    for note in (b"hi", b"ho"):  # where there is none, and where there is one
        write(tmp_path / "link", note)
        assert (tmp_path / "link").is_symlink()
        assert note_of(tmp_path / "disk/talk") == note.decode()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["talk"]


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "folder", "device"])
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path, kind):
    path = tmp_path / "talk"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")  # a copy of it takes a right that tests may lack
    else:
        os.mkfifo(tmp_path / "pipe")
        path = tmp_path / "pipe" if kind == "fifo" else path
        if kind != "fifo":
            path.symlink_to("pipe")
    before = os.stat(path)
    with pytest.raises(IoError, match="cannot write: expected a regular file"):
        write(path)
    assert os.path.samestat(os.stat(path), before)
    assert not stat.S_ISREG(os.stat(path).st_mode)
    assert not list(tmp_path.glob(".*"))


def die(path, number):
    def state(begin, to):
        os.kill(os.getpid(), number)

    header = saved.Header(model={}, position=0, n_tokens=0, note_bytes=0, state_bytes=9)
    saved.write(path, header, None, b"", state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_part_of_a_killed_writer_is_the_next_ones(tmp_path, number):
    path = tmp_path / "talk"
    write(path)
    for _ in range(2):  # one part, however often
        process = multiprocessing.get_context("spawn").Process(target=die, args=(path, number))
        process.start()
        process.join()
        assert process.exitcode == -number
        assert {entry.name for entry in tmp_path.iterdir()} == {"talk", ".talk.part"}
    assert note_of(path) == "hi"
    write(path, b"ho")
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk"] and note_of(path) == "ho"


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_part_that_is_no_file_is_not_followed(tmp_path, kind):
    part = tmp_path / ".talk.part"
    (tmp_path / "mine").write_text("mine")
    part.symlink_to("mine") if kind == "link" else os.mkfifo(part)
    with pytest.raises(IoError, match="cannot write"):
        write(tmp_path / "talk")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_part_that_others_may_read_is_made_private(tmp_path):
    (tmp_path / ".talk.part").write_text("left")
    os.chmod(tmp_path / ".talk.part", 0o666)
    write(tmp_path / "talk")
    assert stat.S_IMODE((tmp_path / "talk").stat().st_mode) == 0o600


def test_room_is_asked_for_before_a_state_is_written(tmp_path, monkeypatch):
    """Where a link leads, and with a part of before out of the way."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/talk")
    (tmp_path / "disk/.talk.part").write_text("left")
    header = saved.Header(model={}, position=0, n_tokens=0, note_bytes=0, state_bytes=1 << 40)
    asked = []

    def usage(folder):
        asked.append((Path(folder), (tmp_path / "disk/.talk.part").stat().st_size))
        return SimpleNamespace(free=1 << 39)

    def state(begin, to):
        raise AssertionError("written")

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(IoError, match=r"^\[snapshot\] the disk is short: expected 1,099,[\d,]+ "):
        saved.write(tmp_path / "link", header, None, b"", state)
    assert asked == [(tmp_path / "disk", 0)]
    assert not list((tmp_path / "disk").iterdir())


def test_one_holds_a_name_alone(tmp_path):
    (tmp_path / "link").symlink_to("talk")
    for _ in range(2):
        with durable.held_alone(tmp_path / "talk"):
            with pytest.raises(BlockingIOError), durable.held_alone(tmp_path / "link"):
                pass
            with durable.held_alone(tmp_path / "other"):
                pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_many_writers_come_one_after_another(tmp_path):
    inside, most = [], []

    def work(number):
        for _ in range(20):
            with durable.private_file(tmp_path / "talk") as stream:
                inside.append(number)
                most.append(len(inside))
                stream.write(np.full(100, number, np.uint8).tobytes())
                inside.pop()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 120 and set(most) == {1}
    assert len(set((tmp_path / "talk").read_bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["talk"]
