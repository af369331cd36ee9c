"""Server-sent events: a stream that shows that it lives, and ends when its reader is gone."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError

T = TypeVar("T")
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx holds back what it may buffer
}
COMMENT = b": ping\n\n"


def event(data: Any, name: str | None = None) -> bytes:
    """One event, of JSON data or of text."""
    text = data.encode() if isinstance(data, str) else to_json(data)
    head = f"event: {name}\n".encode() if name else b""
    return b"%bdata: %b\n\n" % (head, text)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """An ASGI answer of events.

    Args:
        events: their bytes.
        source: what they are made from. Both are closed at the end, or when the client is gone.
        silence: seconds after which `ping()` is sent.
        ping: an event that says nothing.
        write_timeout: seconds that a client may leave an event unread.
        headers: of the answer.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        source: Begun[Any],
        *,
        silence: float,
        ping: Callable[[], bytes] = lambda: COMMENT,
        write_timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._events, self._source, self._ping = events, source, ping
        self._silence, self._write_timeout = silence, write_timeout
        self._lock = asyncio.Lock()
        self._begin: float | None = None  # of the event that is being sent
        self._last = 0.0  # when an event was sent
        self._ended = False
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the events end or their reader is gone."""
        sender = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        watch = asyncio.ensure_future(self._watch(send))
        try:
            await asyncio.wait({sender, gone, watch}, return_when=FIRST_COMPLETED)
            if sender.done():
                with contextlib.suppress(OSError):  # what uvicorn raises once the client is gone
                    sender.result()
        finally:
            await _end(sender, gone, watch)
            await self._events.aclose()
            await self._source.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for data in self._events:
            await self._write(send, data)
        await self._write(send, b"", False)

    async def _write(self, send: Send, data: bytes, more: bool = True) -> None:
        async with self._lock:
            if self._ended:  # while a ping waited
                return
            self._ended = not more
            self._begin = self._last = asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": data, "more_body": more})
            self._begin = None

    async def _watch(self, send: Send) -> None:
        """Breaks the silence; returns when an event has been left unread for too long."""
        now = asyncio.get_running_loop().time
        self._last = now()
        while True:
            if self._begin is not None:  # an event is being sent
                left = self._begin + self._write_timeout - now()
                if left <= 0:
                    return
            else:
                left = self._last + self._silence - now()
                if left <= 0:
                    ping = asyncio.ensure_future(self._write(send, self._ping()))
                    await asyncio.wait({ping}, timeout=self._write_timeout)
                    if not ping.done():
                        return await _end(ping)
                    left = 0
            await asyncio.sleep(min(left, self._write_timeout))


async def _end(*futures: asyncio.Future[Any] | None) -> None:
    for future in futures:
        if future is not None:
            future.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await future


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes.

    Raises:
        ApiError: the client is gone; no one reads it.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request.receive))
    try:
        both: set[asyncio.Future[Any]] = {task, gone}
        await asyncio.wait(both, return_when=FIRST_COMPLETED)
        if not task.done():
            raise ApiError(400, "the client is gone", code="cancelled")
        return task.result()
    finally:
        await _end(task, gone)


class Begun(Generic[T]):
    """Events of which the first has come, or so many seconds have gone by.

    An error that comes before the first event can so have a status of its own. Whoever has one
    closes it: a generator that was never asked for an item does not clean up by itself.
    """

    def __init__(self, events: AsyncGenerator[T, None]) -> None:
        self._events = events
        self._first: asyncio.Future[T] | None = asyncio.ensure_future(anext(events))

    @classmethod
    async def wait(cls, events: AsyncGenerator[T, None], seconds: float) -> Begun[T]:
        """Waits for the first event. Raises what comes instead of it."""
        found = cls(events)
        assert found._first is not None
        try:
            await asyncio.wait({found._first}, timeout=seconds)
            if found._first.done():
                found._first.result()
        except BaseException:
            await found.aclose()
            raise
        return found

    def __aiter__(self) -> Begun[T]:
        return self

    async def __anext__(self) -> T:
        """The next event."""
        if self._first is None:
            return await anext(self._events)
        found = await self._first
        self._first = None
        return found

    async def aclose(self) -> None:
        """Ends the events."""
        await _end(self._first)
        await self._events.aclose()
