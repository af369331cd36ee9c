"""The handle of an engine that runs in a process of its own (peers.py)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMPT, WARM_UP, TIMED = 512, 64, 256  # tokens of a round
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Peer:
    """One process of peers.py."""

    def __init__(
        self,
        python: str,
        engine: str,
        options: dict[str, Any],
        prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        command = [*prefix, python, str(Path(__file__).with_name("peers.py")), engine,
                   json.dumps(options)]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | (env or {}),
        )  # fmt: skip
        self.load = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine ended with {self._process.wait()}")
        return dict(json.loads(line))

    def ask(self, **order: Any) -> dict[str, Any]:
        """Runs an order and returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def round(self, ids: Sequence[int], limit: float = 1e9) -> dict[str, float]:
        """Prompt, warm-up and timed tokens from an empty sequence."""
        self.ask(reset=True)
        prefill = self.ask(prefill=ids[:PROMPT])
        self.ask(decode=ids[PROMPT : PROMPT + WARM_UP], limit=limit / 4)
        decode = self.ask(decode=ids[PROMPT + WARM_UP : PROMPT + WARM_UP + TIMED], limit=limit)
        return {
            "prefill": PROMPT / prefill["seconds"],
            "prefill_device_bytes": prefill["device_bytes"],
            "decode": decode["tokens"] / decode["seconds"],
            "decode_tokens": decode["tokens"],
            "decode_device_bytes_per_token": decode["device_bytes"] / decode["tokens"],
        }


@contextmanager
def running(*args: Any, **options: Any) -> Iterator[Peer]:
    """A peer, ended at the end."""
    peer = Peer(*args, **options)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def huge_pages() -> Iterator[None]:
    """Huge pages for processes that do not ask for them, as llama.cpp does not. Linux, root."""
    before = HUGE_PAGES.read_text().partition("[")[2].partition("]")[0]
    HUGE_PAGES.write_text("always")
    try:
        yield
    finally:
        HUGE_PAGES.write_text(before)
