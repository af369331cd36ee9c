"""`/metrics`, and the count of requests, around an app that knows of neither."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from .metrics import CONTENT_TYPE, Metrics

# The part of a path that names an API; all others count as one.
APIS = ("chat/completions", "completions", "responses", "messages", "models", "health", "metrics")


class Counted:
    """An ASGI app that counts requests by API and status.

    Args:
        app: that answers them.
        metrics: that are told.
    """

    def __init__(self, app: FastAPI, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        app.add_api_route("/metrics", self._text, include_in_schema=False)

    async def _text(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes everything on."""

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                api = _api(scope["path"])
                self._metrics.requests.labels(api, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counting if scope["type"] == "http" else send)


def _api(path: str) -> str:
    name = path.removeprefix("/v1").strip("/")
    return next((api for api in APIS if name == api or name.startswith(f"{api}/")), "other")
