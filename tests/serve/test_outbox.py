"""News on their way to event loops: who hears them, when, and what is left behind."""

import asyncio
import os
import threading

from moeflux.serve.engine import Delta
from moeflux.serve.outbox import Bell, Outbox


class Reader:
    def __init__(self, bell):
        self.bell, self.cancelled, self.told = bell, False, []

    def tell(self, deltas):
        self.told += deltas


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
