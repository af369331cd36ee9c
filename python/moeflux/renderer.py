"""Renders chat templates in processes of their own, which are kept.

A template is code from a stranger. It runs in jinja2's immutable sandbox (_template_worker.py), in
a process with limits on time, memory and output. A process serves one template and is kept for the
next render; one that a template hung or filled is ended, and the next render starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import TemplateError

MAX_CHARS = 200_000  # of a template
MAX_RENDERED_CHARS = 10_000_000
MAX_ANSWER = 12 * MAX_RENDERED_CHARS + 4096  # bytes of an answer: JSON has 12 for a character
MAX_SECONDS = 5  # of processor time, a render; real ones take milliseconds
MAX_WAIT = 60  # seconds by the clock, for a machine that is busy
MAX_BYTES = 512 << 20  # address space of a process that renders
MAX_WORKERS = 8  # processes of one template at a time
MAX_RENDERS = 500  # of one process: what a template leaves behind in it has an end


class _Worker:
    """A process that renders one template, and its pipes."""

    def __init__(self, template: str) -> None:
        path = Path(__file__).with_name("_template_worker.py")
        try:
            self.process = subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE)  # fmt: skip
        except OSError as error:
            raise TemplateError(f"[tokenizer] cannot start the process of the chat template: "
                                f"{error.strerror}") from None  # fmt: skip
        assert self.process.stdin and self.process.stdout
        self._pipes = self.process.stdin, self.process.stdout
        self.renders = 0
        self._setup = {"template": template, "max_chars": MAX_RENDERED_CHARS,
                       "max_bytes": MAX_BYTES, "max_seconds": MAX_SECONDS}  # fmt: skip

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises TemplateError when the process dies of it."""
        lines = [request] if self.renders else [self._setup, request]
        self.renders += 1
        watchdog = threading.Timer(MAX_WAIT, self.process.kill)
        watchdog.daemon = True
        begin = time.monotonic()
        watchdog.start()
        try:
            self._pipes[0].write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self._pipes[0].flush()
            found: dict[str, Any] = json.loads(self._pipes[1].readline(MAX_ANSWER))
            return found
        except (OSError, ValueError):
            self.process.kill()
            why = f"'s process died ({self.process.wait()})"
            if time.monotonic() - begin > MAX_WAIT:
                why = f" took over {MAX_WAIT} seconds"
            elif self.process.returncode == -signal.SIGXCPU:
                why = f" took over {MAX_SECONDS} seconds of processor time"
            raise TemplateError(f"[tokenizer] the chat template{why}") from None
        finally:
            watchdog.cancel()

    def end(self) -> None:
        """Stops the process: nothing in it is worth waiting for."""
        self.process.kill()
        with contextlib.suppress(OSError), self.process:  # closes pipes, waits
            pass


class Renderer:
    """Renders one template. Safe to share between threads; a forked child starts its own."""

    def __init__(self, template: str) -> None:
        if len(template) > MAX_CHARS:
            raise TemplateError(f"[tokenizer] expected a chat template of at most {MAX_CHARS} "
                                f"characters, found {len(template)}")  # fmt: skip
        self.template = template
        self._idle: list[_Worker] = []
        self._free_places()
        weakref.finalize(self, _end_all, self._idle)
        _renderers.add(self)

    def render(self, request: Mapping[str, Any]) -> str:
        """The text that the template makes of a request; _template_worker.py says what is in one.

        Raises:
            TemplateError: it fails, or does more than it may.
        """
        answer: dict[str, Any] = {"ends": True}
        with self._places:
            worker = self._worker()
            try:
                answer = worker.ask(request)
            finally:
                if answer.get("ends") or worker.renders >= MAX_RENDERS:
                    worker.end()
                else:
                    self._idle.append(worker)
        if "error" in answer:
            raise TemplateError(f"[tokenizer] the chat template failed: {answer['error']}")
        return str(answer["text"])

    def _worker(self) -> _Worker:
        with contextlib.suppress(IndexError):  # of a list that is, or has just become, empty
            while True:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                worker.end()
        return _Worker(self.template)

    def _free_places(self) -> None:
        self._places = threading.BoundedSemaphore(MAX_WORKERS)


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


_renderers: weakref.WeakSet[Renderer] = weakref.WeakSet()


def _after_fork() -> None:
    """In a child: threads that held a place are the parent's. So are the processes, which `poll`
    takes for ended there.
    """  # noqa: D205
    for renderer in list(_renderers):
        renderer._free_places()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
