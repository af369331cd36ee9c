"""Runs an agent: signals reach it, and its exit status comes back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import IoError, SessionError
from .agents import AGENTS, Agent

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def installed(name: str) -> tuple[Agent, str]:
    """An agent and the path of its program.

    Raises:
        SessionError: none has this name, or its program is not on PATH.
    """
    if name not in AGENTS:
        raise SessionError(f"[launch] expected one of {', '.join(AGENTS)}, found {name!r}")
    agent, program = AGENTS[name], shutil.which(name)
    if program is None:
        raise SessionError(f"[launch] expected the program {name} on PATH, found none; "
                           f"npm install -g {agent.package}")  # fmt: skip
    return agent, program


class Signals:
    """Who gets the signals of this process: the agent, once it runs; before that they end us."""

    def __init__(self) -> None:
        self._agent: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Takes signals within the block."""
        before = {sign: signal.signal(sign, self._arrived) for sign in SIGNALS}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def _arrived(self, sign: int, frame: Any) -> None:
        if self._agent is None:
            raise SystemExit(128 + sign)
        # A terminal sends Ctrl-C to the agent, too.
        if sign != signal.SIGINT or not sys.stdin.isatty():
            self._agent.send_signal(sign)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Runs a command to its end.

        Returns:
            Its exit status as a shell tells it: 128 and the number of a signal that ended it.

        Raises:
            IoError: it cannot be run.
        """
        try:
            self._agent = subprocess.Popen(command, env=environment)
        except OSError as error:
            raise IoError(f"[launch] cannot run {command[0]}: {error.strerror}") from None
        status = self._agent.wait()
        return status if status >= 0 else 128 - status
