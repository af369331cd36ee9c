"""What dialects do alike: from a request to an Ask, from its events to an answer."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Ask, Models
from ..events import Event
from ..http.auth import client_of
from ..http.errors import ApiError, as_api_error
from ..http.limits import read_json
from ..http.sse import Begun, EventStream, while_connected
from ..settings import Settings

logger = logging.getLogger("moeflux.serve")
WARNING = "X-Moeflux-Warning"  # what of a request was left out
MAX_WARNING = 1024  # characters


@dataclass
class Api:
    """What every endpoint is given."""

    models: Models
    settings: Settings

    async def body(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request."""
        return await read_json(request, self.settings)


class Writer(Protocol):
    """Writes the events of one answer in a dialect."""

    def whole(self, events: list[Event]) -> dict[str, Any]:
        """The answer as one object."""

    def stream(self, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
        """The answer as events."""

    def failed(self, error: ApiError) -> bytes:
        """The event of an error in a stream that has begun."""

    def ping(self) -> bytes:
        """An event that only shows life."""


def api_of(request: Request) -> Api:
    """The Api of the app that a request came to."""
    found: Api = request.app.state.api
    return found


def request_id(request: Request) -> str:
    """The id of a request."""
    return str(request.state.request_id)


def client(request: Request, *named: str | None) -> str:
    """Whose a request is."""
    address = request.client.host if request.client else ""
    return client_of(request.headers, request.state.key or address, *named)


def scope(request: Request, api: Api) -> str:
    """Whose prompts a request shares work with: those of its key, or everyone's without keys."""
    return str(request.state.key) if api.settings.api_keys else ""


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


async def answer(
    request: Request, api: Api, ask: Ask, writer: Writer, warnings: list[str] | None = None
) -> Response:
    """Asks, and answers as one object or as a stream. A client that goes cancels the job."""
    said = ascii("; ".join(warnings or ()))[1:-1]  # what clients wrote is in it
    headers = {WARNING: said[:MAX_WARNING]} if said else {}
    if ask.streamed:
        begun = Begun.wait(ask.events(), api.settings.keep_alive)
        source = await while_connected(request, begun)
        return EventStream(
            _to_the_end(writer, source), source, headers=headers, ping=writer.ping,
            silence=api.settings.keep_alive, write_timeout=api.settings.write_timeout,
        )  # fmt: skip
    events = await while_connected(request, _collect(ask))
    return JSONResponse(writer.whole(events), headers=headers)


async def _collect(ask: Ask) -> list[Event]:
    return [event async for event in ask.events()]


async def _to_the_end(writer: Writer, source: Begun[Event]) -> AsyncGenerator[bytes, None]:
    """The stream; an error after its first byte is an event, too."""
    try:
        async for data in writer.stream(source):
            yield data
    except Exception as error:
        if not isinstance(error, ApiError):
            logger.exception("a stream failed")
        yield writer.failed(as_api_error(error))
