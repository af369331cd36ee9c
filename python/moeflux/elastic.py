"""Budgets of open models: another one by hand, and `auto`, which follows what the machine has.

A model that was loaded with memory="auto" looks between its steps, once a second at most; one that
rests is looked after by a thread, which all models of the process share. Where memory runs short it
gives slots back at once, the experts that were used least first. After two quiet minutes it takes
some again, and never more than it had. A step that finds no room has it back at once: what sessions
grow into is not given away. No bit of a result depends on it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

from . import memory
from .errors import MemoryBudgetError
from .log import logger

T = TypeVar("T")
LOW, HIGH = 0.04, 0.10  # of all memory: below LOW it is short, and HIGH shall be available then
LOOK_S = 1.0  # between two looks
QUIET_S = 120.0  # without a shortage before it grows again


def next_budget(
    budget: int, live: int, most: int, available: int, total: int, quiet_s: float
) -> int:
    """The budget that a look leads to.

    Args:
        budget: of now, in bytes.
        live: bytes of it that are taken.
        most: that it may have.
        available: bytes that the machine, or the container, can still give.
        total: bytes that it has.
        quiet_s: since memory was short, or the budget changed.
    """
    if available < LOW * total:
        return min(budget, max(live - (int(HIGH * total) - available), 0))
    if budget < most and quiet_s >= QUIET_S:
        return min(most, budget + max(available - int(HIGH * total), 0) // 2)
    return budget


class Follower:
    """Moves the budget of one model that was loaded with "auto".

    Args:
        model: native; not kept alive.
        most: bytes that it may have.
    """

    def __init__(self, model: Any, most: int) -> None:
        self._model, self._most = weakref.ref(model), most
        self._looked = self._changed = time.monotonic()
        self._lock = threading.RLock()  # a signal handler may come in between

    def look(self) -> None:
        """Between two steps: a look at the machine, if one is due. Waits for a step to end."""
        now = time.monotonic()
        if now - self._looked < LOOK_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = now
            if (model := self._model()) is not None and _followers.get(model) is self:
                self._follow(model, now)
        finally:
            self._lock.release()

    def take_back(self, model: Any) -> bool:
        """Makes the budget again what it was at load; False where it is that."""
        with self._lock:
            if model.stats()["memory_bytes"] >= self._most:
                return False
            model.set_memory(self._most)
            self._changed = time.monotonic()
            logger.info("memory=auto takes %d bytes again: a step needs them", self._most)
            return True

    def _follow(self, model: Any, now: float) -> None:
        stats, available, total = model.stats(), memory.available_bytes(), memory.total_bytes()
        if available < LOW * total:
            self._changed = now
        budget = stats["memory_bytes"]
        wanted = next_budget(budget, stats["live_bytes"], self._most, available, total,
                             now - self._changed)  # fmt: skip
        wanted = max(wanted, model.least_bytes())
        if wanted == budget:
            return
        with suppress(MemoryBudgetError):  # a session took what was free a moment ago
            model.set_memory(wanted)
            logger.info("memory=auto takes %d bytes from now on, it had %d: %d are available",
                        wanted, budget, available)  # fmt: skip
            self._changed = now


_followers: weakref.WeakKeyDictionary[Any, Follower] = weakref.WeakKeyDictionary()
_watcher: threading.Thread | None = None  # while there are any
_lock = threading.RLock()  # over both


def follow(model: Any, auto: bool) -> None:
    """From now on the model's budget follows the machine, or stays as it is."""
    with _lock:
        if auto:
            _followers[model] = Follower(model, model.stats()["memory_bytes"])
            _start()
        else:
            _followers.pop(model, None)


def _start() -> None:
    """The thread that looks for models at rest, where the system tells what is available."""
    global _watcher
    if _watcher is None and sys.platform == "linux":
        _watcher = threading.Thread(target=_watch, name="moeflux-memory", daemon=True)
        _watcher.start()


def _watch() -> None:
    global _watcher
    while True:
        time.sleep(LOOK_S)
        with _lock:
            followers = list(_followers.values())
            if not followers:
                _watcher = None
                return
        for follower in followers:
            try:
                follower.look()
            except Exception as error:  # of a device, or of what the system tells: look again later
                logger.warning("memory=auto cannot change a budget: %s", str(error))


def _forget() -> None:
    """In a forked child, which has neither the thread nor its models."""
    global _watcher, _lock
    _watcher, _lock = None, threading.RLock()
    _followers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def step(model: Any, call: Callable[[], T]) -> T:
    """A call that steps sessions of a native model, and that changes nothing where it fails.

    The budget follows the machine before it, not behind it, where nothing may undo that.
    """
    if (follower := _followers.get(model)) is None:
        return call()
    follower.look()
    try:
        return call()
    except MemoryBudgetError:
        if not follower.take_back(model):
            raise
        return call()


def resize(model: Any, wanted: str | int, advised: int | None) -> None:
    """Gives a native model another budget; see `Model.memory`."""
    with _lock:
        before = _followers.pop(model, None)  # it must not set another one meanwhile
    try:
        look = before._lock if before else nullcontext()  # one that is under way ends first
        with look, memory.change(model, wanted, advised) as nbytes:
            model.set_memory(nbytes)
    except BaseException:
        if before is not None:
            with _lock:
                _followers[model] = before
                _start()
        raise
    follow(model, wanted == "auto")
