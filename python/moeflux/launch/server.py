"""The server that an agent asks: one that is there, or one that is started for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import IoError, SessionError

ANSWER = 5.0  # seconds that a server has to answer in
PAUSE = 0.1  # seconds between two looks
END = 10.0  # seconds that a server which is told to end has
MOST = 1 << 20  # bytes of an answer
START = 6 * 3600.0  # seconds that a new server has to answer in: it may download its model first
# `-m` would look for modules in the working folder, which may be a stranger's.
COMMAND = """
import sys
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]
from moeflux.cli import main
main()
"""


@dataclass(frozen=True)
class Served:
    """A model on a server.

    Attributes:
        url: of the server, without a path.
        key: that it wants, or "".
        model: its name.
        context: tokens of prompt and answer.
    """

    url: str
    key: str
    model: str
    context: int

    @property
    def host(self) -> str:
        """The server's name or address."""
        return urlsplit(self.url).hostname or ""


def base(url: str, tag: str = "launch") -> str:
    """A server's URL without a path of its API. Raises SessionError for what is no URL."""
    short = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(short)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise SessionError(f"[{tag}] url: expected one such as http://127.0.0.1:8080, "
                           f"found {url!r}")  # fmt: skip
    return short


def find(url: str, key: str) -> Served | None:
    """The first model of the server at a URL; None where no server of ours is.

    Raises:
        SessionError: the server takes no requests, or wants another key.
    """
    status, found = _get(f"{url}/health", "")
    if not isinstance(found, dict) or not isinstance(found.get("models"), dict):
        return None
    if status != 200:
        raise SessionError(f"[launch] the server at {url} takes no requests: its state is "
                           f"{str(found.get('status'))[:40]}")  # fmt: skip
    status, found = _get(f"{url}/v1/models", key)
    if status == 401:
        raise SessionError(f"[launch] {url} wants a key: --api-key, or MOEFLUX_API_KEY")
    try:
        first = found["data"][0]
        return Served(url, key, str(first["id"]), int(first["meta"]["context"]))
    except (LookupError, TypeError, ValueError):
        return None


@contextlib.contextmanager
def started(url: str, key: str, flags: Sequence[str], log: Path | None) -> Iterator[Served]:
    """A server with these flags, once it answers; it ends with the block.

    It has a session of its own: Ctrl-C on the terminal is the agent's.

    Args:
        url: where it will be.
        key: that it will want, or "".
        flags: of `moeflux serve`.
        log: what it says goes there; None keeps it until the server ends.

    Raises:
        IoError: the log cannot be written.
        SessionError: the server ended before it answered, or did not answer within `START` seconds.
    """
    command = [sys.executable, "-c", COMMAND, "serve", *flags]
    environment = os.environ | ({"MOEFLUX_API_KEY": key} if key else {})
    with (
        _log(log) as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield _answering(process, url, key, said)
        finally:
            _end(process)


def _answering(process: subprocess.Popen[bytes], url: str, key: str, said: Any) -> Served:
    """What a server that was started serves, once it answers."""
    end = time.monotonic() + START
    while True:
        found = find(url, key)
        # Whoever answers in place of a server that ended is another.
        if (status := process.poll()) is not None:
            raise SessionError(f"[launch] the server ended with status {status}{_last(said)}")
        if found is not None:
            return found
        if time.monotonic() > end:
            raise SessionError(f"[launch] the server did not answer within {START:.0f} seconds"
                               f"{_last(said)}")  # fmt: skip
        time.sleep(PAUSE)


class _Stays(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is for the server that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, key: str) -> tuple[int, Any]:
    """Status and JSON of an answer; (0, None) without one in time."""
    status, said = fetch(url, key)
    try:
        return status, json.loads(said)
    except (ValueError, RecursionError):
        return 0, None


def fetch(url: str, key: str) -> tuple[int, bytes]:
    """Status and body of an answer; (0, b"") without one in time. No proxy is asked for it."""
    found: list[tuple[int, bytes]] = []
    # The timeout of a socket is one of each read of it: a thread ends with the whole.
    asker = threading.Thread(target=lambda: found.append(_ask(url, key)), daemon=True)
    asker.start()
    asker.join(ANSWER)
    return found[0] if found else (0, b"")


def _ask(url: str, key: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stays())
    request = urllib.request.Request(url, headers={"x-api-key": key} if key else {})
    try:
        try:
            with opener.open(request, timeout=ANSWER) as answer:
                return answer.status, answer.read(MOST)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(MOST)
    except (OSError, ValueError, http.client.HTTPException):
        return 0, b""


def _log(path: Path | None) -> Any:
    try:
        return tempfile.TemporaryFile("w+b") if path is None else path.open("w+b")
    except OSError as error:
        raise IoError(f"[launch] cannot write {path}: {error.strerror or error}") from None


def _last(said: Any) -> str:
    """The last line that a server said."""
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    line = next((text for text in reversed(lines) if text.strip()), "")
    return f": {line.removeprefix('moeflux: ')}" if line else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server: asks it, asks it not to wait for answers, and makes it."""
    for end in (process.terminate, process.terminate, process.kill):
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END)
            return
