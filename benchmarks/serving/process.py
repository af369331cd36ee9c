"""A server's process: what an event costs it, how many connections it bears, when it is ready."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import Options, Row, at_least, at_most

STREAMS, IDLE, DEAF, EVENT_US = 64, 500, 16, 60
COMMAND = [sys.executable, "-m", "moeflux.cli", "serve", "--port", "0", "--context", "256",
           "--memory", "256MiB", "--max-running", "64", "--max-queued", "256",
           "--cache-memory", "0"]  # fmt: skip
LOAD = 'import moeflux; moeflux.load(memory="256MiB", context=256)'


@contextlib.contextmanager
def server() -> Iterator[tuple[int, int]]:
    """(port, process id) of a server of the demo model."""
    with subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", told)
            assert found, told + process.stderr.read()
            yield int(found[1]), process.pid
        finally:
            process.kill()


def cpu_of_main(pid: int) -> float:
    """Seconds that a process' main thread, the event loop, has had of a processor."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have had of processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def request(i: int, tokens: int, **more: Any) -> bytes:
    """A streamed completion of so many tokens, as HTTP."""
    body = {"prompt": f"def f{i}(x):", "max_tokens": tokens, "ignore_eos": True, "stream": True,
            "seed": i, **more}  # fmt: skip
    data = json.dumps(body).encode()
    head = ("POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n")  # fmt: skip
    return head.encode() + data


async def ask(port: int, i: int, tokens: int) -> int:
    """Events of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(i, tokens))
    data = await reader.read(-1)
    writer.close()
    assert b"[DONE]" in data, data
    return data.count(b"data: ")


async def many(port: int, n: int, tokens: int) -> tuple[int, float]:
    """Events of n answers at once, and the seconds that they took."""
    begin = time.perf_counter()
    found = await asyncio.gather(*(ask(port, i, tokens) for i in range(n)))
    return sum(found), time.perf_counter() - begin


async def _metric(port: int, name: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    text = (await reader.read(-1)).decode()
    writer.close()
    return float(re.findall(rf"^{name} (\S+)", text, re.MULTILINE)[0])


async def _quiet(port: int) -> None:
    while await _metric(port, "moeflux_requests_running") + await _metric(
        port, "moeflux_requests_waiting"
    ):
        await asyncio.sleep(0.05)


def _deaf(port: int, i: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.sendall(request(i, 96, logprobs=5))
    return made


def events(options: Options) -> list[Row]:
    """Processor of the event loop for an event, and for a request; the queue that metrics show."""

    async def go(port: int, pid: int) -> list[Row]:
        costs = []
        for _ in range(options.rounds + 1):
            turn = []
            for tokens in (1, 96):
                used = cpu_of_main(pid)
                count, _ = await many(port, STREAMS, tokens)
                turn.append((count, cpu_of_main(pid) - used))
            (few, short), (lots, long) = turn
            event = (long - short) / (lots - few)
            costs.append((event, (short - few * event) / STREAMS))
        event, one = (statistics.median(column) for column in zip(*costs[1:], strict=True))
        waits = asyncio.ensure_future(many(port, 96, 32))
        most = 0.0
        while not waits.done():
            most = max(most, await _metric(port, "moeflux_requests_waiting"))
            await asyncio.sleep(0.05)
        return [
            at_most("an event of 64 streams, of the event loop's processor", 1e6 * event, EVENT_US,
                    "us"),
            Row("a request, of the event loop's processor", 1e3 * one, unit="ms"),
            at_least("choices that /metrics shows waiting, of 32", most, 1),
        ]  # fmt: skip

    with server() as (port, pid):
        return asyncio.run(go(port, pid))


def crowd(options: Options) -> list[Row]:
    """Eight clients alone, and beside connections that say nothing and readers that never read."""

    async def go(port: int) -> list[Row]:
        alone, beside = [], []
        for turn in range(options.rounds + 1):
            _, seconds = await many(port, 8, options.tokens)
            alone.append(seconds)
            with contextlib.ExitStack() as ends:
                for _ in range(IDLE):
                    ends.enter_context(socket.create_connection(("127.0.0.1", port)))
                for i in range(DEAF):
                    ends.enter_context(_deaf(port, 1000 * turn + i))
                await asyncio.sleep(0.2)
                await _quiet(port)  # what nobody reads has been computed
                _, seconds = await many(port, 8, options.tokens)
                beside.append(seconds)
        ratio = statistics.median(alone[1:]) / statistics.median(beside[1:])
        return [at_least("rate beside 500 idle connections and 16 deaf readers", ratio, 0.9)]

    with server() as (port, _):
        return asyncio.run(go(port))


def start(options: Options) -> list[Row]:
    """From a command to its server, beyond a load of the model."""
    clock, cpu = [], []
    for _ in range(options.rounds + 1):
        begin, used = time.perf_counter(), _cpu_of_children()
        subprocess.run([sys.executable, "-c", LOAD], check=True)
        load, loading = time.perf_counter() - begin, _cpu_of_children() - used
        begin = time.perf_counter()
        with server() as (_, pid):
            clock.append(time.perf_counter() - begin - load)
            cpu.append(cpu_of(pid) - loading)
    return [
        at_most("ready after a load", statistics.median(clock[1:]), 1.5, "s"),
        Row("the same by seconds of the processor", statistics.median(cpu[1:]), unit="s"),
    ]
