"""Writing snapshots: arguments, room, and writers that are stopped, killed or many."""

import os
import signal
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest

import moeflux
from moeflux import FormatError, MemoryBudgetError, SessionError, Snapshot, saved
from support import budget
from support.snapshots import FEW, TOKENS, N, unharmed


def test_arguments_of_write_are_checked(tmp_path, model):
    session = model.session()
    session.step([1, 2, 3])
    snapshot = session.save()
    for more in ({"tokens": [1]}, {"tokens": [1, 2, -3]}, {"tokens": "abc"}, {"note": None},
                 {"note": "\ud800"}, {"note": "x" * (saved.MAX_NOTE_BYTES + 1)}):  # fmt: skip
        with pytest.raises(SessionError, match=r"^\[snapshot\]"):
            snapshot.write(tmp_path / "s", **more)
    for path in (None, 3, b"s", "s\0"):
        with pytest.raises(SessionError, match="path: expected a path"):
            snapshot.write(path)
    with pytest.raises(SessionError, match="model: expected a Model"):
        Snapshot.read(session, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path, model, small):
    session = model.session()
    session.step([1, 2, 3])
    one, vocab, path = session.save(), model.vocab_size, tmp_path / "s"
    for token in (vocab, 2**32 - 1):
        with pytest.raises(SessionError, match=f"expected token ids below {vocab}, found {token}"):
            one.write(path, tokens=[1, 2, token])
        path.write_bytes(small)  # another program's
        with saved.opened(path) as file:
            header = file.header
        tokens = np.array([1, 2, token], np.uint32)
        saved.write(path, header, tokens, b"a note", one._native.read)
        with pytest.raises(FormatError, match="expected token ids below"):
            Snapshot.read(model, path)
        path.unlink()
    one.write(path, tokens=[1, 2, vocab - 1])
    assert Snapshot.read(model, path).tokens[-1] == vocab - 1


def test_a_snapshot_finds_room_in_place_of_experts_or_is_refused(tmp_path, folder, model, whole):
    session = model.session()
    session.step(TOKENS[:512])
    session.save().write(tmp_path / "s")
    least = budget.smallest_budget(folder, context=N)
    tight = moeflux.load(folder, memory=least, context=N, threads=2)
    with unharmed(tight, whole):
        kept = []
        with pytest.raises(MemoryBudgetError, match="a snapshot"):
            for _ in range(9):
                kept.append(Snapshot.read(tight, tmp_path / "s"))
        assert tight.stats["peak_bytes"] <= least
        del kept
    wide = moeflux.load(folder, memory="4GiB", context=N, threads=2)
    wide.session().step(TOKENS)  # slots grow into what is free
    room = wide.free_bytes
    read = Snapshot.read(wide, tmp_path / "s")
    assert room - wide.free_bytes >= read.nbytes


def test_ctrl_c_leaves_nothing_half_made(tmp_path, model, whole, monkeypatch):
    with unharmed(model, whole) as session:
        one, crc32 = session.save(), zlib.crc32
        one.write(tmp_path / "s")
        for path, use in ((tmp_path / "s", lambda p: Snapshot.read(model, p)),
                          (tmp_path / "new", one.write)):  # fmt: skip
            calls = iter(range(9))

            def stop(*args, calls=calls):
                if next(calls) == 2:  # after the header
                    os.kill(os.getpid(), signal.SIGINT)
                return crc32(*args)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(zlib, "crc32", stop)
                use(path)
        del one, use
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_writers_of_one_file_leave_a_whole_one(tmp_path, model):
    session = model.session()
    session.step(TOKENS[:300])
    one = session.save()
    notes = [str(i) * 9 for i in range(6)]
    threads = [
        threading.Thread(target=one.write, args=(tmp_path / "s",), kwargs={"note": note})
        for note in notes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Snapshot.read(model, tmp_path / "s").note in notes
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_closed_model_reads_none_and_its_snapshots_are_written(tmp_path, folder):
    with moeflux.load(folder, context=64, **FEW) as model:
        session = model.session()
        session.step([1, 2, 3])
        one = session.save()
    one.write(tmp_path / "s")
    with pytest.raises(SessionError, match="one that was closed"):
        Snapshot.read(model, tmp_path / "s")


KILLED = """
import os, sys, moeflux
from moeflux import saved
model = moeflux.load(sys.argv[1], memory="64MiB", context=64)
session = model.session()
session.step([1, 2, 3])
put = saved._put
def die(*args):
    put(*args)
    os.kill(os.getpid(), 9)
saved._put = die
session.save().write(sys.argv[2])
"""


def test_a_process_that_is_killed_leaves_the_file_of_before(tmp_path, folder, model, small):
    (tmp_path / "s").write_bytes(small)
    command = [sys.executable, "-c", KILLED, folder, tmp_path / "s"]
    assert subprocess.run(command).returncode == -9
    assert (tmp_path / "s").read_bytes() == small
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".part"}
