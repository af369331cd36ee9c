"""News on their way to event loops: who hears them, when, and what is left behind."""

import asyncio
import os
import threading

import moeflux
from moeflux import SessionError
from moeflux.serve.engine import Delta, Job, Sampling
from moeflux.serve.local import LocalEngine
from moeflux.serve.outbox import Bell, Outbox


class Reader:
    def __init__(self, bell):
        self.bell, self.cancelled, self.told = bell, False, []

    def tell(self, deltas):
        self.told += deltas


def engine_of(**load):
    return LocalEngine(moeflux.load(memory="24MiB", **load))


async def said(engine):
    asked = Job([5, 6, 7], Sampling(max_tokens=6, ignore_eos=True))
    return "".join([delta.text async for delta in engine.submit(asked)])


def delta(text):
    return Delta(text=text)


def test_news_reach_their_loop_in_order_once_the_bell_rings():
    async def work():
        bell, outbox = Bell(), Outbox()
        one, other = Reader(bell), Reader(bell)
        for reader, text in ((one, "a"), (other, "b"), (one, "c")):
            outbox.put(reader, delta(text))
        hung = outbox.hang()
        await asyncio.sleep(0.01)
        before = [*one.told, *other.told]
        threading.Thread(target=bell.ring).start()
        while not one.told:
            await asyncio.sleep(0.001)
        bell.close()
        return hung == [bell], before, one.told, other.told, outbox.hang()

    assert asyncio.run(work()) == (True, [], [delta("a"), delta("c")], [delta("b")], [])


def test_a_bell_that_rings_more_than_a_pipe_holds_waits_for_nobody():
    async def work():
        bell = Bell()
        reader = Reader(bell)
        for _ in range(1 << 17):
            bell.ring()
        bell.hang(reader, [delta("late")])
        while not reader.told:
            await asyncio.sleep(0)
        bell.close()
        return reader.told

    assert asyncio.run(work()) == [delta("late")]


def test_a_bell_tells_what_is_left_when_it_is_closed_and_gives_its_descriptors_back():
    async def work():
        before = os.listdir("/dev/fd")
        bell = Bell()
        reader = Reader(bell)
        bell.hang(reader, [delta("last")])
        bell.close()
        return reader.told, len(os.listdir("/dev/fd")) - len(before)

    assert asyncio.run(work()) == ([delta("last")], 0)


def test_who_waited_on_a_loop_that_was_closed_is_cancelled():
    made = []

    async def work():
        made.append(Bell())

    asyncio.run(work())
    reader, outbox = Reader(made[0]), Outbox()
    outbox.put(reader, delta("for nobody"))
    outbox.send()
    assert reader.cancelled and reader.told == []
    made[0].close()


def test_a_bell_that_may_ring_is_not_closed_and_one_that_is_closed_does_not_ring():
    made = []

    async def work():
        made.append(Bell())

    asyncio.run(work())
    [bell] = made
    with bell.held() as fd:
        closes = threading.Thread(target=bell.close)
        closes.start()
        closes.join(0.1)
        assert closes.is_alive() and os.fstat(fd)
    closes.join()
    bell.ring()
    with bell.held() as fd:
        assert fd == -1


def descriptors():
    return len(os.listdir("/dev/fd"))


def test_loops_that_come_and_go_leave_no_descriptors_behind():
    engine = engine_of(context=256)
    asyncio.run(said(engine))
    before = descriptors()
    texts = [asyncio.run(said(engine)) for _ in range(12)]
    assert len(set(texts)) == 1 and descriptors() <= before
    asyncio.run(engine.drain(0))
    assert descriptors() <= before


def test_loops_of_two_threads_share_an_engine_and_one_of_them_ends_it():
    engine, told, ended = engine_of(context=256), {}, threading.Event()

    async def other():
        told["other"] = await said(engine)
        asked.set()
        while not ended.is_set():
            await asyncio.sleep(0.001)

    async def work():
        told["one"] = await said(engine)
        asked.wait(60)
        await engine.drain(0)
        ended.set()

    asked, before = threading.Event(), descriptors()
    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    asyncio.run(work())
    thread.join(60)
    assert told["one"] == told["other"] and descriptors() <= before


def test_news_leave_though_nothing_is_computed():
    """The step raises before the core runs."""
    engine = engine_of(context=256)

    def broken(*given, **options):
        raise SessionError("not today")

    async def work():
        engine._model.step_batch = broken
        found = [delta async for delta in engine.submit(Job([1, 2, 3]))]
        await engine.drain(0)
        return found

    admitted, last = asyncio.run(asyncio.wait_for(work(), 60))
    assert admitted.usage is not None and not admitted.finish
    assert last.finish == "error" and "not today" in last.error


def test_each_loop_hears_its_own():
    """An engine whose clients are on several."""
    outbox, heard = Outbox(), {}
    ready = threading.Barrier(3)

    def client(name):
        async def work():
            reader = Reader(Bell())
            outbox.put(reader, delta(name))
            ready.wait(10)
            while not reader.told:
                await asyncio.sleep(0.001)
            reader.bell.close()
            heard[name] = reader.told

        asyncio.run(work())

    threads = [threading.Thread(target=client, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    ready.wait(10)
    outbox.send()
    for thread in threads:
        thread.join(10)
    assert heard == {"a": [delta("a")], "b": [delta("b")]}
