"""The chat page of the server: files of the package, sent as they are."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = Path(__file__).parents[1] / "page"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# A page that shows what a model writes runs its own files alone, parses no text as HTML, asks its
# own server alone, and stands in no other page's frame.
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",  # asks whether the file is still the same
}


@cache
def _files() -> dict[str, tuple[str, bytes, str]]:
    """Type, bytes and tag of each file by its name."""
    paths = [path for path in FOLDER.iterdir() if path.suffix in TYPES]
    contents = {path.name: (TYPES[path.suffix], path.read_bytes()) for path in paths}
    return {
        name: (kind, data, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        for name, (kind, data) in contents.items()
    }


async def index(request: Request) -> Response:
    """The page. Agents ask for its head to see whether a server is there."""
    return _answer(request, INDEX)


async def file(request: Request) -> Response:
    """A file that the page needs."""
    return _answer(request, request.path_params["name"])


def _answer(request: Request, name: str) -> Response:
    if name not in _files():
        raise HTTPException(404)
    kind, data, tag = _files()[name]
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=kind)
