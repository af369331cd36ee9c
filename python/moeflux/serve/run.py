"""Runs an app over its engines until a signal ends it: gracefully once, at once the second time."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..errors import IoError
from .engine import Engine
from .local import LocalEngine

FAILED = 70  # exit status: a supervisor starts the process again
GRACE = 5.0  # seconds for what is left of the answers to leave, after the engines have drained
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn's server, which drains engines as soon as it is told to end.

    Args:
        config: of uvicorn.
        engines: of the app.
        drain: seconds that answers have to finish in.
        ready: is called when clients can come.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        engines: Sequence[Engine],
        drain: float,
        ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._engines, self._seconds, self._ready = engines, drain, ready
        self._draining: list[asyncio.Task[None]] = []

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes signals. Unlike uvicorn's own it does not raise them again at the end: a server
        that was asked to end, and has, exits with 0.
        """  # noqa: D205
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sign: signal.signal(sign, self.handle_exit) for sign in SIGNALS}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first signal ends gracefully; another one does not wait for answers."""
        if self.should_exit:
            self.force_exit = True
            for engine in self._engines:
                if isinstance(engine, LocalEngine):
                    engine.abort()
        self.should_exit = True

    async def startup(self, sockets: Any = None) -> None:
        """Listens, and says so."""
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end: after a signal, or when an engine has failed."""
        return self.failed or await super().on_tick(counter)

    @property
    def failed(self) -> bool:
        """Whether an engine computes no more."""
        return any(engine.health().state == "failed" for engine in self._engines)

    async def shutdown(self, sockets: Any = None) -> None:
        """Ends answers within the time that they have, then connections."""
        self._draining = [
            asyncio.ensure_future(engine.drain(self._seconds)) for engine in self._engines
        ]
        await super().shutdown(sockets)
        if self.force_exit:
            for task in self._draining:
                task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket with its address, which does not listen yet: clients are refused until it does.

    Raises:
        IoError: the address is taken, or none of this machine.
    """
    found = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        if found is not None:
            found.close()
        raise IoError(f"[serve] cannot listen on {host}:{port}: "
                      f"{error.strerror or error}") from None  # fmt: skip
    return found


def run(
    app: Any,
    engines: Sequence[Engine],
    listener: socket.socket,
    drain: float,
    ready: Callable[[], None] = lambda: None,
) -> int:
    """Serves until a signal, or until an engine fails.

    Args:
        app: for ASGI.
        engines: that the app asks.
        listener: of `bind`.
        drain: seconds that answers have to finish in.
        ready: is called when clients can come.

    Returns:
        An exit status.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=int(drain + GRACE) + 1,
    )  # fmt: skip
    server = Server(config, engines, drain, ready)
    server.run([listener])
    if server.failed:
        return FAILED
    return 0 if server.started else 1
