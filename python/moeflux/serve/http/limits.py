"""How much and what a request may bring: the gate before every route, bodies, strict JSON."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import string
from collections import Counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import Settings
from .auth import check_host, check_key, check_origin, is_open
from .errors import ApiError, bad, error_response

MAX_DEPTH = 200  # of JSON
IN_THREAD = 1 << 16  # bytes of a body; a longer one is parsed beside the event loop
LETTERS = string.ascii_letters + string.digits
CLOSE = {"Connection": "close"}


def new_id(prefix: str) -> str:
    """An id such as chatcmpl-..., with 24 random characters."""
    return prefix + "".join(secrets.choice(LETTERS) for _ in range(24))


class Gate:
    """ASGI middleware: the id of a request, its Host, its Origin and its key."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with the error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        named = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
        request_id = given if named else new_id("req_")
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(raw=message.setdefault("headers", []))
                answer["X-Request-Id"] = answer["request-id"] = request_id
            await send(message)

        try:
            check_host(headers, self.settings)
            check_origin(headers, self.settings)
            if scope["method"] != "OPTIONS" and not is_open(scope["path"]):
                scope["state"]["key"] = check_key(headers, self.settings)
        except ApiError as error:
            response = error_response(error, scope["path"], request_id)
            await response(scope, receive, send_with_id)
            return
        await self.app(scope, receive, send_with_id)


async def read_json(request: Request, settings: Settings) -> dict[str, Any]:
    """The body of a request, a JSON object.

    Raises:
        ApiError: 415 for another type than JSON, 413 for too many bytes, 408 for too long a
            silence, 400 for what is no JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"expected content-type application/json, found {kind[:80]!r}")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "the body is compressed; send it as it is")
    body = await _read(request, settings)
    if len(body) <= IN_THREAD:
        return parse_object(body)
    return await asyncio.to_thread(parse_object, body)


async def _read(request: Request, settings: Settings) -> bytes:
    most = settings.max_body
    too_long = ApiError(413, f"the body is longer than {most} bytes", headers=CLOSE)
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 20 or int(length) > most:
        raise too_long
    chunks, size = [], 0
    stream = request.stream()
    try:
        while chunk := await asyncio.wait_for(anext(stream, b""), settings.body_timeout):
            size += len(chunk)
            if size > most:
                raise too_long
            chunks.append(chunk)
    except (TimeoutError, asyncio.TimeoutError):
        raise ApiError(408, f"no byte of the body came for {settings.body_timeout:g} seconds",
                       headers=CLOSE) from None  # fmt: skip
    except ClientDisconnect:
        raise ApiError(400, "the body ended before its length") from None
    return b"".join(chunks)


def parse_object(body: bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object, strictly. Raises ApiError, whose message names `what`, for any other bytes."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise bad(f"{what} is no UTF-8: {error}") from None
    except RecursionError:
        raise bad(f"{what} is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise bad(f"{what} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad(f"{what} is no JSON object")
    _check_values(value, what)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_values(root: dict[str, Any], what: str) -> None:
    """Refuses depth, numbers beyond a float, and halves of surrogate pairs."""
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise bad(f"{what} has a number that is beyond a float")
            elif isinstance(value, str) and not _is_unicode(value):
                raise bad(f"{what} has half of a surrogate pair")
        if not inner:
            return
        level = inner
    raise bad(f"{what} is nested deeper than {MAX_DEPTH}")


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or text.encode() is not None
    except UnicodeError:
        return False
