"""`Settings`: what the server is told at its start, and the rules of that."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arguments import FLAG, TEXT, Rule, check, integer, number, one_of, optional
from ..errors import SessionError


def _texts(what: str) -> Rule:
    return Rule(
        f"a tuple of {what}",
        lambda value: isinstance(value, tuple) and all(TEXT.fits(v) and v for v in value),
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(TEXT.fits(t) for item in value.items() for t in item)


SECONDS = number("of seconds above 0", lambda value: 0 < value < 1e9)
RULES = {
    "host": Rule("a name or an address", lambda value: TEXT.fits(value) and value != ""),
    "port": integer(0, 65535),
    "api_keys": _texts("keys of one character or more"),
    "no_auth": FLAG,
    "allowed_hosts": _texts("host names, or *"),
    "cors_origins": _texts("origins such as https://example.org"),
    "max_body": integer(1024),
    "body_timeout": SECONDS,
    "write_timeout": SECONDS,
    "keep_alive": SECONDS,
    "request_timeout": optional(SECONDS),
    "drain": number("of seconds of 0 or more", lambda value: 0 <= value < 1e9),
    "aliases": Rule("a mapping of names or globs to models", _is_names),
    "chat_template": optional(TEXT),
    "reasoning": one_of(["auto", "off"]),
    "page": FLAG,
}


@dataclass(frozen=True)
class Settings:
    """How the server listens, whom it lets in and what it calls things.

    Attributes:
        host: that is listened on.
        port: of it; 0 takes a free one.
        api_keys: any of them lets a client in; empty asks for none.
        no_auth: other machines may be served without a key.
        allowed_hosts: more names that a Host header may have; "*" is any.
        cors_origins: pages of other origins that may ask.
        max_body: bytes of a request.
        body_timeout: seconds without a byte of a body that has begun.
        write_timeout: seconds that a client may leave an event unread.
        keep_alive: seconds of silence before a stream shows that it lives.
        request_timeout: seconds from a request to the end of its answer; None: any.
        drain: seconds that answers have to finish in when the server ends.
        aliases: other names of models, with * and ? as in file names.
        chat_template: jinja source in place of the checkpoint's own.
        reasoning: "auto" takes reasoning out of answers where the template has such markup; "off"
            leaves it in the text.
        page: there is a page to chat on.

    Raises:
        SessionError: a value breaks its rule, or all machines would be served without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = 16 << 20
    body_timeout: float = 30
    write_timeout: float = 60
    keep_alive: float = 10
    request_timeout: float | None = None
    drain: float = 30
    aliases: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    reasoning: str = "auto"
    page: bool = True

    def __post_init__(self) -> None:
        check("serve", SessionError, RULES, vars(self))
        if not (self.api_keys or self.no_auth or is_loopback(self.host)):
            raise SessionError(
                f"[serve] host: expected an api key to listen on {self.host}, which other machines "
                "reach, found none; --no-auth serves them without"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
