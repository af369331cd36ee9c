"""A real server and many clients: texts as alone, a bad disk, an end under load, level memory.

MOEFLUX_LOAD_SECONDS is how long the last test goes on; .ci/full says.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from load.clients import Failed, events, piece, question, say
from support import bad_disk, cgroup

SECONDS = int(os.environ.get("MOEFLUX_LOAD_SECONDS", "30"))
HERE = Path(__file__).parent
CLIENTS, IDLE, DEAF = 64, 500, 16
BUDGET = 19 << 20
GROUP = BUDGET + (160 << 20)  # of the group: Python, its packages and what connections hold
LONG = 96  # tokens of an answer that is still written when the server is ended


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return bad_disk.shim(tmp_path_factory.mktemp("shim"))


class Server:
    """`moeflux serve` with the demo model, a third of its experts in memory.

    It runs behind `prefix`, in a memory cgroup where one can be made.
    """

    def __init__(self, prefix, shim, log, *flags):
        command = [*prefix, sys.executable, str(HERE / "server.py"), "serve",
                   "--memory", str(BUDGET), "--context", "256", "--port", "0", "--threads", "2",
                   "--max-running", "64", "--max-queued", "256",
                   "--chat-template", "chatml", *flags]  # fmt: skip
        self.log = log
        environment = os.environ | {"LD_PRELOAD": str(shim)}
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stderr=out, env=environment)

    def wait(self):
        """Until it listens."""
        end = time.monotonic() + 60
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        self.url, self.port = found[0], int(found[1])

    def client(self):
        limits = httpx2.Limits(max_connections=1000)
        return httpx2.AsyncClient(base_url=self.url, limits=limits, timeout=300)

    def bad_disk(self, bad):
        self.process.send_signal(signal.SIGUSR1 if bad else signal.SIGUSR2)

    def rss(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )


@pytest.fixture
def server(shim, tmp_path):
    with contextlib.ExitStack() as ends:

        def make(*flags):
            prefix = ends.enter_context(cgroup.group(GROUP)) if cgroup.available() else []
            made = Server(prefix, shim, tmp_path / "log", *flags)
            ends.callback(made.process.wait)
            ends.callback(made.process.kill)
            made.wait()
            return made

        yield make


async def metrics(client):
    """Name with labels -> value."""
    text = (await client.get("/metrics")).text
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


async def idle(client):
    """Waits until nothing runs; returns the metrics."""
    for _ in range(600):
        found = await metrics(client)
        if (
            float(found["moeflux_requests_running"])
            == float(found["moeflux_requests_waiting"])
            == 0
        ):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"something runs for ever: {found}")


def deaf(port, number):
    """A client that asks for a stream and reads nothing of it."""
    path, body = question(4 * number, True, 96)  # of completions: the numbers make it long
    data = json.dumps(body | {"logprobs": 5}).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n")  # fmt: skip
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.sendall(head.encode() + data)
    return made


def test_many_clients_hear_what_each_hears_alone(server):
    here = server("--cache-memory", "0")

    async def go():
        async with here.client() as client:
            alone = [await say(client, number, number % 8 < 4) for number in range(CLIENTS)]
            with contextlib.ExitStack() as ends:
                for _ in range(IDLE):
                    ends.enter_context(socket.create_connection(("127.0.0.1", here.port)))
                for number in range(DEAF):
                    ends.enter_context(deaf(here.port, number))
                together = await asyncio.gather(
                    *[say(client, number, number % 8 >= 4) for number in range(CLIENTS)]
                )
            return alone, together, await idle(client)

    alone, together, found = asyncio.run(go())
    assert together == alone and len(set(alone)) > CLIENTS / 2
    assert float(found['moeflux_expert_reads_total{hit="false"}']) > 10 * CLIENTS
    assert float(found['moeflux_memory_bytes{kind="live"}']) <= BUDGET
    assert float(found['moeflux_memory_bytes{kind="sessions"}']) == 0


def test_what_runs_when_the_server_is_ended_is_finished(server):
    here = server()

    async def go():
        begun = asyncio.Semaphore(0)

        async def listen(client, number):
            async with events(client, number, LONG) as found:
                text = ""
                async for event in found:
                    if not text and piece(event):
                        begun.release()
                    text += piece(event)
                return text

        async with here.client() as client:
            alone = [await say(client, number, True, LONG) for number in range(32)]
            tasks = [asyncio.create_task(listen(client, number)) for number in range(32)]
            for _ in tasks:
                await begun.acquire()
            assert not all(task.done() for task in tasks)
            here.process.send_signal(signal.SIGTERM)
            assert await asyncio.gather(*tasks) == alone

    asyncio.run(go())
    assert here.process.wait(60) == 0


class Talker:
    """Asks at random until the time is over; each answer is the right one or a told error."""

    def __init__(self, client, expected, seen, seed):
        self.client, self.expected, self.seen = client, expected, seen
        self.random = random.Random(seed)

    async def ask(self, number):
        said = await say(self.client, number, self.random.random() < 0.5)
        assert said == self.expected[number], (number, said)

    async def leave(self, number):
        pieces = self.random.randrange(6)
        async with events(self.client, number) as found:
            async for event in found:
                piece(event)
                pieces -= 1
                if pieces < 0:
                    break

    async def blunder(self, _):
        answer = await self.client.post("/v1/chat/completions", content=b'{"messages": 7')
        assert answer.status_code in (400, 415)

    async def run(self, end):
        actions = [self.ask] * 6 + [self.leave, self.leave, self.blunder]
        while time.monotonic() < end:
            action = self.random.choice(actions)
            try:
                await action(self.random.randrange(CLIENTS))
                self.seen[action.__name__] += 1
            except Failed as error:
                assert "engine_error" in str(error) or "Input/output" in str(error), error
                self.seen["failed"] += 1


def test_a_server_over_a_bad_disk_stays_right_and_level(server):
    here = server()
    seen = Counter()

    async def trouble(end):
        while time.monotonic() < end:
            for bad in (True, False):
                here.bad_disk(bad)
                await asyncio.sleep(1)

    async def go():
        async with here.client() as client:
            expected = [await say(client, number, False) for number in range(CLIENTS)]
            levels = []
            for share in (0.3, 0.7):
                end = time.monotonic() + share * SECONDS
                talkers = [Talker(client, expected, seen, len(levels) * 100 + i) for i in range(24)]
                await asyncio.gather(trouble(end), *[talker.run(end) for talker in talkers])
                here.bad_disk(False)
                found = await idle(client)
                levels.append(here.rss())
            assert await say(client, 0, True) == expected[0]
            return levels, await idle(client), found

    levels, found, _ = asyncio.run(go())
    print(dict(seen), levels)
    assert all(seen[kind] > 0 for kind in ("ask", "leave", "blunder", "failed")), seen
    assert float(found['moeflux_memory_bytes{kind="sessions"}']) == 0
    assert float(found['moeflux_memory_bytes{kind="live"}']) <= BUDGET
    assert levels[1] - levels[0] < 16 << 20
    here.process.send_signal(signal.SIGTERM)
    assert here.process.wait(60) == 0
