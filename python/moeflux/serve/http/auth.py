"""Who may ask: the Host and Origin of a request, and its key."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from ..settings import Settings, is_loopback
from .errors import ApiError

OPEN = ("/", "/health", "/v1/health")
OPEN_FOLDER = "/page/"  # what the page is made of
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return ipaddress.ip_address(name) is not None
    except ValueError:
        return False


def check_host(headers: Headers, settings: Settings) -> None:
    """Refuses names that are not this server's: a page could have its own name lead here.

    Who listens on all addresses has no one name. An address as the Host is let in there: a name
    that a page controls is none.
    """
    name = _name(headers.get("host", ""))
    bound = settings.host.lower()
    wild = bound in ("0.0.0.0", "::") and (_is_address(name) or name == "localhost")
    local = is_loopback(bound) and name in LOOPBACK
    allowed = {host.lower().rstrip(".") for host in (bound, *settings.allowed_hosts)}
    if not (wild or local or {"*", name} & allowed):
        raise ApiError(403, f"Host {name!r} is not a name of this server; --allowed-host adds one")


def check_origin(headers: Headers, settings: Settings) -> None:
    """Refuses what a page of another origin sends."""
    origin = headers.get("origin")
    if origin is None or origin in settings.cors_origins:
        return
    if origin.partition("://")[2] != headers.get("host"):
        raise ApiError(403, f"pages of {origin!r} may not ask; --cors-origin lets them")


def is_open(path: str) -> bool:
    """Whether no key is wanted for a path: nothing there tells or takes what is said."""
    return path in OPEN or path.startswith(OPEN_FOLDER)


def check_key(headers: Headers, settings: Settings) -> str:
    """The hash of the key that lets a request in; "" where none is asked for.

    Refuses a request without one of the keys. The time taken tells nothing about them.
    """
    if not settings.api_keys:
        return ""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    equal = [
        key
        for key in settings.api_keys
        for found in given
        if hmac.compare_digest(key.encode(), found.encode())
    ]
    if not equal:
        raise ApiError(401, "a key is wanted: Authorization: Bearer KEY, or x-api-key: KEY",
                       code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
    return hashlib.sha256(equal[0].encode()).hexdigest()[:16]


SESSION_HEADERS = ("x-session-affinity", "x-session-id", "x-claude-code-session-id", "session-id")


def client_of(headers: Headers, owner: str, *named: str | None) -> str:
    """Whose a request is, for fairness: OWNER/SESSION.

    Args:
        headers: of the request.
        owner: who cannot be made up: the hash of the key, or the address without one.
        named: what its body calls the session or user.
    """
    given = (*(headers.get(name) for name in SESSION_HEADERS), *named)
    return f"{owner}/{next(filter(None, given), '')}"[:200]
