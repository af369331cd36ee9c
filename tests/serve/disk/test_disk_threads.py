"""The threads that read and write prompts: what they hold, give up and make way for."""

import asyncio
import contextlib
import threading
from concurrent.futures import Future, wait
from contextlib import aclosing

import pytest

from moeflux import MemoryBudgetError, _core
from moeflux.serve.disk_cache import DiskCache, Entry
from moeflux.serve.disk_threads import DiskThreads
from moeflux.serve.engine import Job, Sampling
from moeflux.serve.sequence import Sequence
from support.prompts import CONTEXT, LENGTH, MUCH, answer, asks, kept, serving, tokens


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
