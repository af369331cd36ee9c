"""Prompts that are kept on disk: they outlive the engine, and nothing that a disk does to them
reaches an answer."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from contextlib import aclosing, contextmanager

import numpy as np
import pytest

import moeflux
from moeflux import IoError, MemoryBudgetError, SessionError, _core
from moeflux.checkpoint import open_checkpoint
from moeflux.durable import PART
from moeflux.identity import Identity
from moeflux.serve.disk_cache import DiskCache, Entry
from moeflux.serve.disk_threads import DiskThreads
from moeflux.serve.engine import Job, Sampling
from moeflux.serve.local import EngineSettings, LocalEngine
from moeflux.serve.sequence import Sequence
from oracle import build
from serve.test_serve_command import ask, server
from support import disks

CONTEXT = 1024
LENGTH = 300  # of a prompt: an extent and a part of another
MUCH = 1 << 30
LOAD = {"memory": "128MiB", "context": CONTEXT, "threads": 2}


@pytest.fixture(scope="module", params=["qwen3_next", "qwen3_moe"])
def model_folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / request.param
    return build(path, family=request.param, form="mlx-q4")


@pytest.fixture(scope="module")
def model(model_folder):
    return moeflux.load(model_folder, **LOAD)


def tokens(n=LENGTH, seed=0):
    return [(7 * i + i * i // 11 + 31 * seed) % 250 for i in range(n)]


def kept(model, ids):
    session = model.session()
    session.step(ids)
    return session.save()


def files(folder):
    return sorted(folder.glob("*.mfs"))


def serving(model_folder, cache_dir, work, *, load=None, **settings):
    """Runs `work` with a new engine, which then drains; the metrics come with its result."""

    async def run():
        engine = LocalEngine(moeflux.load(model_folder, **LOAD | (load or {})), "tiny",
                             EngineSettings(cache_dir=cache_dir, **settings))  # fmt: skip
        try:
            found = await asyncio.wait_for(work(engine), 120)
        finally:
            await engine.drain(0)
        return found, engine.metrics.text().decode()

    return asyncio.run(run())


async def answer(engine, ids, **more):
    """Tokens with their logprobs, and the usage. The end of the prompt is worth a checkpoint."""
    sampling = Sampling(temperature=0, max_tokens=5, top_logprobs=3)
    asked = Job(ids, sampling, **{"marks": (len(ids),)} | more)
    said, usage = [], None
    async with aclosing(engine.submit(asked)) as deltas:
        async for delta in deltas:
            said += delta.logprobs
            usage = delta.usage or usage
            assert delta.error is None
    return said, usage


def asks(*prompts, **more):
    async def work(engine):
        return [await answer(engine, ids, **more) for ids in prompts]

    return work


@pytest.fixture
def cold(model_folder):
    """What an engine without any cache answers."""

    def ask(*prompts):
        return [said for said, _ in
                serving(model_folder, None, asks(*prompts), cache_memory="0")[0]]  # fmt: skip

    return ask


def test_a_restart_goes_on_from_the_disk_with_the_bits_of_a_cold_start(
    tmp_path, model_folder, cold
):
    ids = tokens()
    [(first, usage)], text = serving(model_folder, tmp_path / "kept", asks(ids))
    assert usage.cached_memory == usage.cached_disk == 0
    later = [*ids, *(one.token for one in first), *tokens(20, seed=3)]
    [(said, usage)], text = serving(model_folder, tmp_path / "kept", asks(later))
    assert usage.cached_disk >= LENGTH and usage.cached_memory == 0
    assert said == cold(later)[0] and len(said) == 5
    assert f'moeflux_prompt_tokens_total{{source="disk"}} {usage.cached_disk:.1f}' in text
    assert 'moeflux_disk_cache_files_total{event="read"} 1.0' in text
    assert 'moeflux_snapshots{where="disk"} ' in text and "moeflux_disk_cache_bytes " in text
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files(tmp_path / "kept"))


def test_what_memory_lets_go_is_written_and_found_again(tmp_path, model_folder, cold):
    """Memory for a few prompts: the others are on disk when they are asked for again."""
    prompts = [tokens(LENGTH + 10 * i, seed=i) for i in range(6)]
    again = [[*ids, 5] for ids in prompts]

    async def work(engine):
        found = []
        for ids in (*prompts, *again):
            found.append(await answer(engine, ids))
            while engine._loop.prefixes.is_busy:  # a slow disk would miss some
                await asyncio.sleep(0.01)
        stats = engine.stats()
        assert 0 < stats["cached_bytes"] <= stats["cache_bytes"] and stats["disk_bytes"] > 0
        return found[len(prompts) :]

    found, text = serving(model_folder, tmp_path, work, cache_memory="1MiB")
    assert [said for said, _ in found] == cold(*again)
    assert all(u.cached_disk + u.cached_memory >= LENGTH for _, u in found)
    assert sum(u.cached_disk > 0 for _, u in found) >= 2
    assert 'event="failed"} 0.0' in text


def test_memory_alone_is_asked_first(tmp_path, model_folder):
    ids = tokens()

    async def work(engine):
        await answer(engine, ids)
        return await answer(engine, [*ids, 5])

    serving(model_folder, tmp_path, work)
    (_, usage), text = serving(model_folder, tmp_path, work)
    assert usage.cached_memory >= LENGTH and usage.cached_disk == 0
    assert 'event="read"} 0.0' in text


def test_two_that_ask_for_the_same_read_it_once(tmp_path, model_folder, cold):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))

    async def work(engine):
        return await asyncio.gather(*(answer(engine, [*ids, i]) for i in (3, 4, 5)))

    found, text = serving(model_folder, tmp_path, work)
    assert [said for said, _ in found] == cold(*([*ids, i] for i in (3, 4, 5)))
    assert all(u.cached_disk + u.cached_memory >= LENGTH for _, u in found)
    # One that comes late, on a busy machine, may find the first read over and used.
    assert 'event="read"} 1.0' in text or 'event="read"} 2.0' in text


def test_many_that_are_on_disk_are_read_as_there_is_room(tmp_path, model_folder, cold):
    """Memory for two of them: the others wait for their turn to be read."""
    prompts = [tokens(LENGTH + 10 * i, seed=i) for i in range(6)]
    again = [[*ids, 5] for ids in prompts]
    serving(model_folder, tmp_path, asks(*prompts), cache_memory="32MiB")
    assert len(files(tmp_path)) >= 6

    async def work(engine):
        return await asyncio.gather(*(answer(engine, ids) for ids in again))

    found, text = serving(model_folder, tmp_path, work, cache_memory="1MiB", max_running=2)
    assert [said for said, _ in found] == cold(*again)
    assert all(u.cached_disk >= LENGTH for _, u in found)
    assert 'event="read"} 6.0' in text


@pytest.mark.parametrize("where", ["head", "tokens", "state", "end", "cut", "empty", "other"])
def test_a_damaged_file_is_removed_and_never_serves(
    tmp_path, model_folder, model, cold, caplog, where
):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))
    for file in files(tmp_path):
        data = bytearray(file.read_bytes())
        places = {"head": 60, "tokens": 700, "state": len(data) // 2, "end": len(data) - 1}
        if where in places:
            data[places[where]] ^= 4
        file.write_bytes({"cut": data[:-1], "empty": b""}.get(where, data))
        if where == "other":  # a whole file of other tokens
            kept(model, tokens(seed=9)).write(file, tokens=tokens(seed=9))
    with caplog.at_level(logging.WARNING, "moeflux"):
        [(said, usage)], text = serving(model_folder, tmp_path, asks([*ids, 5]))
    assert said == cold([*ids, 5])[0] and usage.cached_disk == 0
    assert any("a kept prompt is removed" in line for line in caplog.messages)
    if where != "other":  # of several files one at least was found out
        assert 'event="damaged"} 0.0' not in text


def test_other_models_and_precisions_files_are_ignored_and_stay(tmp_path, model_folder, model):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))
    before = files(tmp_path)
    other = build(tmp_path / "other", family="qwen3_moe", form="mlx-q4", seed=99)
    for folder, load in ((other, {}), (model_folder, {"precision": "bfloat16"}),
                         (model_folder, {"context": 280})):  # fmt: skip
        prompt = ids[:270] if load.get("context") else ids
        [(_, usage)], text = serving(folder, tmp_path, asks([*prompt, 5]), load=load)
        assert usage.cached_disk == 0 and 'event="damaged"} 0.0' in text
    assert set(before) <= set(files(tmp_path))
    [(_, usage)], _ = serving(model_folder, tmp_path, asks([*ids, 5]))
    assert usage.cached_disk >= LENGTH


def test_a_checkpoint_that_changes_in_place_is_another(tmp_path):
    """By a byte of one expert, which no sample of the weights finds."""
    folder, ids = build(tmp_path / "model", family="qwen3_moe", form="mlx-q4"), tokens()
    serving(folder, tmp_path / "kept", asks(ids))
    checkpoint = open_checkpoint(folder)
    before = Identity(checkpoint).weights
    tensor = next(t for t in checkpoint.tensors.values() if t.dtype == "U32" and len(t.shape) == 3)
    with checkpoint.files[tensor.file].open("r+b") as stream:
        stream.seek(tensor.offset)
        byte = stream.read(1)[0]
        stream.seek(tensor.offset)
        stream.write(bytes([byte ^ 0x33]))
    assert Identity(open_checkpoint(folder)).weights == before
    [(_, usage)], _ = serving(folder, tmp_path / "kept", asks([*ids, 5]))
    assert usage.cached_disk == 0
    [(_, usage)], _ = serving(folder, tmp_path / "kept", asks([*ids, 5, 6]))
    assert usage.cached_disk >= LENGTH


def test_scopes_share_nothing(tmp_path, model_folder):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids, scope="one"))
    [(_, usage)], _ = serving(model_folder, tmp_path, asks([*ids, 5], scope="two"))
    assert usage.cached_disk == 0
    [(_, usage)], _ = serving(model_folder, tmp_path, asks([*ids, 5], scope="one"))
    assert usage.cached_disk >= LENGTH


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


def test_a_full_disk_costs_no_answer_and_leaves_nothing(tmp_path, model_folder, cold, caplog):
    prompts = [tokens(seed=i) for i in range(5)]
    with disks.full(20_000), caplog.at_level(logging.WARNING, "moeflux"):
        found, _ = serving(model_folder, tmp_path, asks(*prompts), cache_memory="1MiB")
    assert [said for said, _ in found] == cold(*prompts)
    assert not list(tmp_path.iterdir())
    told = [line for line in caplog.messages if "not kept on disk" in line]
    assert len(told) == 1 and "cannot write" in told[0]  # once, not for each


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


def test_writes_that_are_given_up_leave_nothing_and_free_their_memory(tmp_path, model):
    disk, begun, goes_on = DiskCache(tmp_path, MUCH, model), threading.Event(), threading.Event()
    write = disk.write

    def slow(ids, scope, snapshot, progress):
        def watch(done, total):
            begun.set()
            goes_on.wait(60)
            progress(done, total)

        return write(ids, scope, snapshot, watch)

    disk.write = slow
    before = model.stats["live_bytes"] - model.stats["slots"] * model.stats["slot_bytes"]
    for end in ("drop", "abort"):
        threads = DiskThreads(disk, lambda: None, MUCH)
        for seed in range(3):
            threads.write(tokens(seed=seed), "", kept(model, tokens(seed=seed)), 1000)
        assert begun.wait(60) and threads.pending_bytes == 3000
        threading.Timer(0.05, goes_on.set).start()
        if end == "drop":
            assert threads.drop() and threads.pending_bytes == 0
            threads.close(0)
        else:
            threads.abort()
            threads.close(60)
            threads.write(tokens(), "", kept(model, tokens()), 1000)
        begun.clear()
        goes_on.clear()
        assert not list(tmp_path.iterdir())
    stats = model.stats
    assert stats["live_bytes"] - stats["slots"] * stats["slot_bytes"] == before


def test_a_read_that_is_over_before_it_is_noted_is_forgotten(tmp_path, model):
    disk = DiskCache(tmp_path, MUCH, model)
    disk.read = lambda *args: None
    threads = DiskThreads(disk, lambda: None, MUCH)
    submit = threads._readers.submit

    def over(*args):
        future = submit(*args)
        wait([future])
        return future

    threads._readers.submit = over
    threads.read(Entry("a", 1, LENGTH, 0.0), tokens())
    assert threads._reading == {}
    threads.close(60)


def test_no_more_memory_than_allowed_waits_for_the_disk(tmp_path, model):
    disk, goes_on = DiskCache(tmp_path, MUCH, model), threading.Event()
    disk.write = lambda *args: goes_on.wait(60)
    threads = DiskThreads(disk, lambda: None, 2500)
    for seed in range(4):
        threads.write(tokens(seed=seed), "", kept(model, tokens(seed=seed)), 1000)
    assert threads.pending_bytes == 2000
    goes_on.set()
    threads.close(60)
    assert threads.pending_bytes == 0


def test_where_memory_is_short_answers_are_those_of_each_alone(tmp_path, model_folder, cold):
    """Choices come in place of snapshots, which are written first."""
    prompts = [tokens(LENGTH + 40 * i, seed=i) for i in range(8)]
    load = {"memory": "12MiB", "max_slots": None}

    async def work(engine):
        found = []
        for part in (prompts[:3], prompts[3:6], prompts[6:], prompts[:2]):
            found += await asyncio.gather(*(answer(engine, [*ids, 1]) for ids in part))
        return found, engine.stats()

    (found, stats), text = serving(model_folder, tmp_path, work, load=load, cache_memory="60%")
    expected = cold(*([*ids, 1] for ids in prompts))
    assert [said for said, _ in found] == expected + expected[:2]
    assert stats["peak_bytes"] <= stats["memory_bytes"]
    assert 'event="failed"} 0.0' in text


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
        command = [sys.executable, "-m", "moeflux.cli", "serve", "--memory", "24MiB", "--context",
                   "64", "--port", "0", *flags]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("bad", [
    {"cache_disk": "25%"}, {"cache_disk": "much"}, {"cache_dir": 3}, {"cache_dir": ""},
    {"cache_disk": "8GiB"},
])  # fmt: skip
def test_settings_are_checked(bad):
    with pytest.raises(SessionError, match=next(iter(bad))):
        EngineSettings(**bad)


def test_where_memory_runs_out_what_was_read_for_later_goes(tmp_path, model_folder):
    async def work(engine):
        prefixes, waits = engine._loop.prefixes, Sequence(Job([1, 2]), 0, 1, engine.tokenizer, 64)
        prefixes._fetched[waits] = object()
        return [prefixes.make_room(0.0) for _ in range(2)], len(prefixes._fetched)

    assert serving(model_folder, tmp_path, work)[0] == ([True, False], 0)


def test_a_read_in_progress_gives_way_to_an_answer(tmp_path, model_folder, cold):
    """It holds all memory that there is, and goes on for as long as the answer does."""
    ids, other = tokens(), tokens(20, seed=3)
    serving(model_folder, tmp_path, asks(ids))
    begun, over = threading.Event(), threading.Event()

    async def work(engine):
        model = engine._loop._model

        def slow(entry, ids, progress=lambda done, total: None):
            held = []
            for n in (CONTEXT, 1):
                with contextlib.suppress(MemoryBudgetError):
                    while True:
                        held.append(_core.NativeDraft(model._native, n))
            begun.set()
            while not over.wait(0.01):
                progress(0, 1)

        engine._loop.prefixes.disk.read = slow
        sampling = Sampling(temperature=0, max_tokens=400, ignore_eos=True)
        try:
            async with aclosing(engine.submit(Job(other, sampling))) as deltas:
                first = await anext(deltas)
                waits = asyncio.create_task(answer(engine, [*ids, 5]))
                n = len(first.tokens)
                async for delta in deltas:
                    n += len(delta.tokens)
                    assert delta.error is None
        finally:
            over.set()
        return n, await waits

    load = {"memory": "24MiB"}
    (n, (said, usage)), _ = serving(model_folder, tmp_path, work, load=load)
    assert begun.is_set() and n == 400
    assert said == cold([*ids, 5])[0] and usage.cached_disk == 0


def test_a_read_leaves_those_who_run_what_they_are_going_to_take(tmp_path, model_folder):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))

    async def work(engine):
        prefixes, asked = engine._loop.prefixes, []
        prefixes._threads.read = lambda *args: asked.append(args) or Future()
        waits = Sequence(Job([*ids, 5]), 0, 1, engine.tokenizer, CONTEXT)
        prefixes.expect(waits)
        free = prefixes._room.free_bytes
        found = [prefixes.is_ready(waits, free), len(asked)]  # none is left
        found += [prefixes.is_ready(waits, 0), len(asked)]
        prefixes.forget(waits)
        return found

    assert serving(model_folder, tmp_path, work)[0] == [True, 0, False, 1]


def test_a_state_on_its_way_to_the_disk_is_written_once(tmp_path, model):
    disk, goes_on, written = DiskCache(tmp_path, MUCH, model), threading.Event(), []
    disk.write = lambda ids, *args: goes_on.wait(60) and written.append(ids)
    threads = DiskThreads(disk, lambda: None, MUCH)
    one = kept(model, tokens())
    for nbytes in (0, 1000):
        threads.write(tokens(), "", one, nbytes)
    assert threads.pending_bytes == 1000
    goes_on.set()
    threads.close(60)
    assert written == [tokens()]


@pytest.mark.parametrize("end", ["drop_reads", "abort"])
def test_reads_that_are_given_up_free_their_memory(tmp_path, model, end):
    disk, begun, goes_on = DiskCache(tmp_path, MUCH, model), threading.Event(), threading.Event()
    for seed in range(2):
        disk.write(tokens(seed=seed), "", kept(model, tokens(seed=seed)))
    read = disk.read

    def slow(entry, ids, progress):
        def watch(done, total):
            begun.set()
            goes_on.wait(60)
            progress(done, total)

        return read(entry, ids, watch)

    disk.read = slow
    used = model.free_bytes
    threads = DiskThreads(disk, lambda: None, MUCH)
    found = [threads.read(disk.find([*tokens(seed=seed), 1], ""), tokens(seed=seed))
             for seed in range(2)]  # fmt: skip
    assert begun.wait(60) and model.free_bytes < used
    threading.Timer(0.05, goes_on.set).start()
    getattr(threads, end)()
    if end == "drop_reads":
        assert model.free_bytes == used
    threads.close(60)
    assert next(future.result() for future in found if not future.cancelled()) == []
    assert model.free_bytes == used and disk.counts["damaged"] == 0


def test_a_read_that_fails_leaves_what_memory_has(tmp_path, model_folder):
    ids = tokens()
    serving(model_folder, tmp_path, asks(ids))

    async def work(engine):
        prefixes = engine._loop.prefixes
        prefixes.disk.read = lambda *args: None
        waits = Sequence(Job([*ids, 5]), 0, 1, engine.tokenizer, CONTEXT)
        prefixes.expect(waits)
        found = [waits.taken.cached]
        while not prefixes.is_ready(waits, 0):
            await asyncio.sleep(0.01)
        return [*found, waits.taken.cached]

    found, _ = serving(model_folder, tmp_path, work)
    assert found[0] >= LENGTH and found[1] == 0
