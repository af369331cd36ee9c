"""One row of a batch: asked of the server's app in this process, and told as OpenAI's files do.

What chance and the clock bring into an answer is taken out or made from the row, so that the same
row has the same bytes in every run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from typing import Any

from ..http.errors import ApiError, bad
from .rows import LineError, Request, parse

TRIES, PAUSE = 30, 1.0  # of a row that the engine has no time for, and seconds between them
BUSY, SEED_BITS = 503, 48
PREFIX = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-"}


def request_id(name: str) -> str:
    """What the server calls a row's request."""
    return f"req_{name}"


async def answer(app: Any, line: bytes | None, name: str) -> tuple[int, dict[str, Any]]:
    """The status and the output of a line; status 0 where the line is no request.

    Args:
        app: of the server.
        line: of the input; None for one that is too long.
        name: that ids of the answer are made from.
    """
    try:
        request = parse(line)
    except LineError as error:
        fault = {"code": "invalid_line", "message": str(error)}
        return 0, _row(name, error.custom_id, None, fault)
    try:
        status, body = await _asked(app, request, request_id(name))
    except ApiError as error:
        status, body = error.status, error.openai()
    if status == 200:
        body = _settled(body, PREFIX[request.url], name)
    response = {"status_code": status, "request_id": request_id(name), "body": body}
    return status, _row(name, request.custom_id, response, None)


def _row(name: str, custom_id: str | None, response: Any, error: Any) -> dict[str, Any]:
    return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": error}


async def _asked(app: Any, request: Request, name: str) -> tuple[int, dict[str, Any]]:
    body = dict(request.body)
    if body.get("stream"):
        raise bad("expected none in a batch: its answers are whole", "stream")
    if body.get("seed") in (None, -1):
        said = hashlib.sha256(request.custom_id.encode()).digest()
        body["seed"] = int.from_bytes(said, "big") >> (256 - SEED_BITS)
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    for _ in range(TRIES):
        status, found = await _post(app, request.url, data, name)
        if status != BUSY:
            break
        await asyncio.sleep(PAUSE)
    return status, found


async def _post(app: Any, path: str, body: bytes, name: str) -> tuple[int, dict[str, Any]]:
    """One request to an ASGI app, without a socket."""
    sent, status, left = bytearray(), 0, [body]

    async def receive() -> dict[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        await asyncio.get_running_loop().create_future()  # the client stays
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        sent.extend(message.get("body", b""))

    headers = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": name,
    }
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
    }  # fmt: skip
    with contextlib.suppress(Exception):  # starlette raises again what it has answered with 500
        await app(scope, receive, send)
    try:
        found = json.loads(sent)
    except ValueError:
        status, found = 500, ApiError(500, "the server gave no answer").openai()
    return status, found


def _settled(body: dict[str, Any], prefix: str, name: str) -> dict[str, Any]:
    """An answer without what another run would say otherwise: times, ids, hits of the cache."""
    kept = {key: value for key, value in body.items() if key != "timings"}
    kept |= {"id": prefix + name, "created": 0}
    usage = kept["usage"]
    kept["usage"] = {key: usage[key] for key in usage if key != "prompt_tokens_details"}
    for choice in kept["choices"]:
        for number, call in enumerate(choice.get("message", {}).get("tool_calls") or ()):
            call["id"] = f"call_{name}_{choice['index']}_{number}"
    return kept
