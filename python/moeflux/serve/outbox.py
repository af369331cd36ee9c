"""News on their way from the step thread to the event loops that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from .engine import Delta


class Reader(Protocol):
    """Who waits for news; a `Ticket`."""

    bell: Bell
    cancelled: bool

    def tell(self, deltas: Iterable[Delta]) -> None:
        """Takes news, on the event loop."""


class Bell:
    """Wakes the event loop that made it by a byte in a pipe, which native code can write, too."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard, self._rung = os.pipe()
        self._lock = threading.RLock()  # a descriptor that was closed may be another file's
        self._closed = False
        self._news: deque[tuple[Reader, list[Delta]]] = deque()
        for fd in (self._heard, self._rung):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._heard, self._deliver)

    @property
    def is_over(self) -> bool:
        """Whether nobody hears it any more: the loop was closed."""
        return self._loop.is_closed()

    def hang(self, reader: Reader, news: list[Delta]) -> None:
        """News that the next ring tells, from any thread."""
        self._news.append((reader, news))

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """The descriptor that a byte is written to, not closed meanwhile; -1: it was before."""
        with self._lock:
            yield -1 if self._closed else self._rung

    def ring(self) -> None:
        """From any thread."""
        with self.held() as fd, contextlib.suppress(BlockingIOError):  # full: the loop is awake
            if fd >= 0:
                os.write(fd, b"\0")

    def end(self) -> None:
        """Closes it, from any thread."""
        if self.is_over or self._loop is asyncio.get_running_loop():
            self.close()
        else:
            self._loop.call_soon_threadsafe(self.close)

    def close(self) -> None:
        """Tells what is left, on its loop or after the loop's end, when nobody rings any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self.is_over:
                self._loop.remove_reader(self._heard)
                self._deliver()
            os.close(self._heard)
            os.close(self._rung)

    def _deliver(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._heard, 1 << 12)
        while self._news:
            reader, news = self._news.popleft()
            reader.tell(news)


class Outbox:
    """News of a step. They reach each event loop in one call, whatever their number."""

    def __init__(self) -> None:
        self._deltas: dict[Reader, list[Delta]] = {}

    def put(self, reader: Reader, delta: Delta) -> None:
        """Adds news of a job."""
        self._deltas.setdefault(reader, []).append(delta)

    def hang(self) -> list[Bell]:
        """The bells that are to ring for all of it. A loop that is closed has nobody who waits."""
        deltas, self._deltas = self._deltas, {}
        bells: dict[Bell, None] = {}
        for reader, news in deltas.items():
            if reader.bell.is_over:
                reader.cancelled = True
                continue
            reader.bell.hang(reader, news)
            bells[reader.bell] = None
        return list(bells)

    def send(self) -> None:
        """Sends all, and is empty again."""
        for bell in self.hang():
            bell.ring()
