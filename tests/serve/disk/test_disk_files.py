"""The folder of prompts on disk: its bound, its index, and what others put there."""

import os
from contextlib import contextmanager

import pytest

from moeflux import IoError, saved
from moeflux.durable import PART
from moeflux.serve.disk_cache import Day, DiskCache
from support.prompts import MUCH, files, kept, tokens


def test_files_stay_within_their_bound_and_the_oldest_go(tmp_path, model):
    one = kept(model, tokens())
    disk = DiskCache(tmp_path, MUCH, model)
    assert disk.write(tokens(), "", one)
    (file,) = files(tmp_path)
    size = file.stat().st_size
    file.unlink()
    disk = DiskCache(tmp_path, 3 * size + 70_000, model)  # a header is 64 KiB at most
    for seed in range(3):
        assert disk.write(tokens(seed=seed), "", kept(model, tokens(seed=seed)))
    assert disk.read(disk.find([*tokens(), 1], ""), tokens()) is not None  # used: young again
    for seed in (3, 4):
        during = []
        assert disk.write(tokens(seed=seed), "", kept(model, tokens(seed=seed)),
                          lambda *_, during=during: during.append(disk.nbytes))  # fmt: skip
        assert max(during) + size <= 3 * size + 70_000  # room is made before it is needed
        assert disk.nbytes == sum(file.stat().st_size for file in files(tmp_path))
        assert disk.nbytes <= 3 * size + 70_000
    alive = [seed for seed in range(5) if disk.has(tokens(seed=seed), "")]
    assert alive == [0, 3, 4] and len(disk) == 3
    assert disk.read(disk.find([*tokens(), 1], ""), tokens()) is not None
    again = DiskCache(tmp_path, 2 * size, model)  # a smaller bound at the next start
    assert [seed for seed in range(5) if again.has(tokens(seed=seed), "")] == [0, 4]
    small = DiskCache(tmp_path / "small", size // 2, model)
    assert not small.write(tokens(), "", one) and not files(tmp_path / "small")


def test_a_day_has_a_bound_of_writes(tmp_path, model, monkeypatch, caplog):
    disk, ones = DiskCache(tmp_path, MUCH, model), [kept(model, tokens(seed=i)) for i in range(5)]
    assert disk.write(tokens(), "", ones[0])
    state = model._native.snapshot_form(len(tokens()))["nbytes"]
    size, now = saved.file_bytes(state, len(tokens())), [1e9]  # at most
    monkeypatch.setattr("moeflux.serve.disk_cache.time.time", lambda: now[0])
    for file in files(tmp_path):
        file.unlink()
    disk = DiskCache(tmp_path, size, model, 3 * size)  # each file has its place alone

    def write(seed):
        return disk.write(tokens(seed=seed), "", ones[seed])

    assert write(0) and write(1)
    now[0] += 1000
    assert write(2)
    assert not write(3) and not write(4)
    assert disk.has(tokens(seed=2), "")  # it did not go for what is refused
    assert disk.counts["refused"] == 2 and caplog.text.count("in a day") == 1
    now[0] += 86_400 - 1000
    assert write(3) and write(4) and not write(1)
    now[0] += 86_400
    os.utime(files(tmp_path)[0], (now[0] - 86_000, now[0] - 86_000))
    disk = DiskCache(tmp_path, MUCH, model, size)  # a file of the day is there
    assert not write(0)
    now[0] += 400
    assert write(0)


def test_what_a_disk_refuses_is_no_write_of_the_day(tmp_path, model, monkeypatch):
    one = kept(model, tokens())
    size = saved.file_bytes(model._native.snapshot_form(len(tokens()))["nbytes"], len(tokens()))
    disk = DiskCache(tmp_path, MUCH, model, size)

    def dropped(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.write(tokens(), "", one, dropped)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: Usage())
        assert not disk.write(tokens(), "", one)
    assert disk.write(tokens(), "", one) and not disk.write(tokens(seed=1), "", one)


@pytest.mark.parametrize("later", [0, 10**9])
def test_a_clock_that_is_set_back_stops_no_day(later):
    day = Day(100, 1e9, [(1e9 + later, 10)])
    assert day.take(90, 1e9) and not day.take(1, 1e9)
    assert not day.take(1, 1e9 - 10**6)
    assert day.take(100, 1e9 - 10**6 + 86_400)


def test_the_longest_beginning_is_found(tmp_path, model):
    disk, ids = DiskCache(tmp_path, MUCH, model), tokens(400)
    for n in (256, 300, 301):
        disk.write(ids[:n], "", kept(model, ids[:n]))
    disk.write(tokens(350, seed=5), "", kept(model, tokens(350, seed=5)))
    for one in (disk, DiskCache(tmp_path, MUCH, model)):
        found = {n: one.find(ids[:n], "") for n in (256, 257, 300, 301, 302, 400)}
        assert {n: e and e.position for n, e in found.items()} == {
            256: None, 257: 256, 300: 256, 301: 300, 302: 301, 400: 301,
        }  # fmt: skip
        assert one.find([*ids[:299], 1, 2, 3], "").position == 256 and len(one) == 4


def test_a_disk_without_room_is_not_filled(tmp_path, model, monkeypatch):
    disk = DiskCache(tmp_path, MUCH, model)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and Usage())
        assert not disk.write(tokens(), "", kept(model, tokens()))
    assert not files(tmp_path) and disk.counts["failed"] == 1
    assert disk.write(tokens(), "", kept(model, tokens()))


class Usage:
    free = 1 << 20


def test_folders_that_are_not_ones_own_are_refused(tmp_path, model):
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o707)
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o770)
    for name in ("file", "file/below", "open", "group"):
        with pytest.raises(IoError, match=r"^\[serve\]"):
            DiskCache(tmp_path / name, MUCH, model)


def test_other_files_of_the_folder_stay(tmp_path, model):
    disk = DiskCache(tmp_path, MUCH, model)
    disk.write(tokens(), "", kept(model, tokens()))
    (file,) = files(tmp_path)
    names = ["notes.txt", "x.mfs", f".{file.name}.new{PART}", f".mine{PART}"]
    for name in names:
        (tmp_path / name).write_text("mine")
    old = tmp_path / f".{file.name}.old{PART}"
    old.write_text("left by a crash")
    os.utime(old, (1, 1))
    os.symlink(tmp_path / "notes.txt", tmp_path / f"{'0' * 64}.mfs")
    assert len(DiskCache(tmp_path, 1, model)) == 0  # a bound that keeps no file
    assert {path.name for path in tmp_path.iterdir()} == {*names, f"{'0' * 64}.mfs"}


def test_odd_entries_of_the_folder_do_not_stop_a_start(tmp_path, model, monkeypatch):
    odd = [tmp_path / f"{'0' * 64}.mfs", tmp_path / f".{'0' * 64}.mfs.old{PART}"]
    for path in odd:
        path.mkdir()
        os.utime(path, (1, 1))
    scandir = os.scandir

    class Gone:
        name = f"{'1' * 64}.mfs"

        def stat(self, **_):
            raise FileNotFoundError(self.name)

    @contextmanager
    def scanned(folder):
        with scandir(folder) as found:
            yield [Gone(), *found]

    monkeypatch.setattr(os, "scandir", scanned)
    assert len(DiskCache(tmp_path, MUCH, model)) == 0 and all(path.is_dir() for path in odd)


def test_a_file_that_cannot_be_read_now_counts_and_is_written_again(tmp_path, model, monkeypatch):
    disk = DiskCache(tmp_path, MUCH, model)
    disk.write(tokens(), "", kept(model, tokens()))
    entry, nbytes = disk.find([*tokens(), 1], ""), disk.nbytes

    def fails(*args, **more):
        raise IoError("[snapshot] the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("moeflux.saved.opened", fails)
        assert disk.read(entry, tokens()) is None
        assert DiskCache(tmp_path, MUCH, model).nbytes == nbytes
    assert disk.nbytes == nbytes and disk.find([*tokens(), 1], "") is None
    assert not disk.has(tokens(), "")
    assert disk.write(tokens(), "", kept(model, tokens())) and disk.has(tokens(), "")
    assert disk.nbytes == nbytes == files(tmp_path)[0].stat().st_size


def test_a_file_of_another_version_stays_and_counts(tmp_path, model):
    disk = DiskCache(tmp_path, MUCH, model)
    disk.write(tokens(), "", kept(model, tokens()))
    (file,) = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[16] += 1
    file.write_bytes(data)
    again = DiskCache(tmp_path, MUCH, model)
    assert files(tmp_path) == [file] and again.nbytes == len(data) and len(again) == 0
    assert again.counts["damaged"] == 0


def test_a_file_that_another_server_removes_is_a_miss(tmp_path, model):
    disk = DiskCache(tmp_path, MUCH, model)
    disk.write(tokens(), "", kept(model, tokens()))
    entry = disk.find([*tokens(), 1], "")
    files(tmp_path)[0].unlink()
    assert disk.read(entry, tokens()) is None
    assert disk.find([*tokens(), 1], "") is None and disk.counts["damaged"] == 0
