"""Asks an app without a socket: whole answers, streams as events, and raw ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2

from moeflux.serve.app import create_app
from moeflux.serve.settings import Settings
from serve.scripted import ScriptedEngine

BASE = "http://127.0.0.1:8080"
USER = {"role": "user", "content": "hi"}
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def app_of(engine: ScriptedEngine, **settings: Any) -> Any:
    return create_app({engine.info.name: engine}, Settings(**settings))


def http(app: Any) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url=BASE)


def ask(
    engine: ScriptedEngine,
    path: str,
    body: Any = None,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    **settings: Any,
) -> httpx2.Response:
    """The answer to one request; a body of bytes is sent as it is."""

    async def go() -> httpx2.Response:
        async with http(app_of(engine, **settings)) as client:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body)
            given = {"content-type": "application/json"} if body is not None else {}
            return await client.request(
                method, path, content=content, headers={**given, **(headers or {})}
            )

    return asyncio.run(go())


def events(text: str) -> list[tuple[str | None, Any]]:
    """(event, data) of a stream; comments are (None, None)."""
    found: list[tuple[str | None, Any]] = []
    for block in text.split("\n\n"):
        if not block:
            continue
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        data = lines.get("data")
        found.append((lines.get("event"), json.loads(data) if data and data != "[DONE]" else data))
    return found


class Asgi:
    """One request by hand, whose client can go, or stop reading, at any event."""

    def __init__(self, app: Any, path: str, body: Any) -> None:
        self._app, self._path = app, path
        self._body = json.dumps(body).encode()
        self.sent: list[bytes] = []
        self.status = 0
        self.gone = asyncio.Event()
        self.on_send: Callable[[int], Any] = lambda count: None
        self._asked = False

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            self.sent.append(message["body"])
            found = self.on_send(len(self.sent))
            if found is not None:
                await found
            for _ in range(4 * self.gone.is_set()):  # a socket's loss is seen between two writes
                await asyncio.sleep(0)

    async def run(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"127.0.0.1:8080"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        await self._app(scope, self._receive, self._send)
