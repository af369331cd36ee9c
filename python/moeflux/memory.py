"""How much memory a model may take: sizes as people write them, and what `auto` comes to.

A budget is a promise: experts come into memory as they are needed, so what a model may still take
looks free to the system. `auto` leaves that to the models of this process that it was promised to.
It cannot see what other processes were promised.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .arguments import Rule, is_integer, is_number, show
from .errors import FormatError, MemoryBudgetError
from .log import logger

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
MOST_BYTES = 2**62
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*")
HEAD_ROOM = 0.8  # of what is available: page cache, interpreter and neighbours need the rest
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_lock = threading.RLock()  # over what this process has promised
_loading: dict[object, int] = {}  # budgets of models that are being loaded
_models: weakref.WeakSet[Any] = weakref.WeakSet()  # native models; their sessions keep them, too


def _size(value: Any) -> int:
    """Bytes that a number or a text such as 12GiB means, at most 2^62; 0 when it is no size."""
    if is_integer(value):
        return min(max(int(value), 0), MOST_BYTES)
    match = _SIZE.fullmatch(value.lower()) if isinstance(value, str) else None
    number = float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
    if is_number(value) and 0 < value < math.inf:  # not NaN
        number = float(value)
    return int(min(number, MOST_BYTES))


SIZE = Rule(
    '"auto" or a size such as 12GiB',
    lambda value: (isinstance(value, str) and value == "auto") or _size(value) > 0,
)


def parse_bytes(memory: str | int) -> int:
    """Turns "12GiB", "500MB" or a number of bytes into bytes.

    Raises:
        FormatError: it is no positive size.
    """
    if not (size := _size(memory)):
        raise FormatError(f"[memory] expected a size such as 12GiB, found {show(memory)}")
    return size


def as_size(nbytes: int) -> str:
    """Bytes as `parse_bytes` takes them: rounded up, so that what would do still does."""
    unit, power = next((u, p) for u, p in (("GiB", 3), ("MiB", 2), ("KiB", 1))
                       if nbytes >= 1024**p or p == 1)  # fmt: skip
    number = f"{math.ceil(nbytes * 100 / 1024**power) / 100:.2f}"
    return number.rstrip("0").rstrip(".") + unit


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every memory cgroup this process is in, v1 and v2."""
    found = []
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit, used = _CGROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        here = root / name.lstrip("/")
        for folder in (here, *here.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or no such file
                most, taken = (int((folder / name).read_text()) for name in (limit, used))
                found.append((most, max(taken - _idle_cache(folder), 0)))
            if folder == root:
                break
    return found


def _idle_cache(group: Path) -> int:
    """Bytes of files that a cgroup's used ones count and the system gives back when asked."""
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def total_bytes() -> int:
    """Memory that this process could ever have: the machine's, or the least of its cgroups'."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _cgroup_limits())])


def available_bytes() -> int:
    """Memory that can be had now: the least of MemAvailable and every cgroup's remaining room."""
    rooms = [limit - used for limit, used in _cgroup_limits() if limit < 2**60]
    try:
        for line in (_PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                rooms.append(int(line.split()[1]) * 1024)
    except OSError:
        rooms.append(total_bytes() // 2)
    return max(min(rooms), 0)


def promised_bytes(but: Any = None) -> int:
    """What models of this process may still take: experts that fit their budgets, not read yet.

    One of them, `but`, is left out.
    """
    with _lock:
        unused = sum(_loading.values())
        for model in list(_models):
            if model is but:
                continue
            stats = model.stats()
            room = stats["memory_bytes"] - stats["live_bytes"]
            experts = (stats["max_slots"] - stats["slots"]) * stats["slot_bytes"]
            unused += max(min(room, experts), 0)
    return unused


def budget_bytes(memory: str | int, model: Any = None) -> int:
    """The budget that `memory` asks for; "auto" is a share of what nobody has or was promised.

    A native model that is to have it may use what it holds already.
    """
    if memory != "auto":
        return parse_bytes(memory)
    available, promised = available_bytes(), promised_bytes(model)
    available += model.stats()["live_bytes"] if model is not None else 0
    budget = max(int((available - promised) * HEAD_ROOM), 1)
    logger.info("memory=auto takes %d bytes: %d are available, %d of them promised to other models "
              "of this process; another process may take the same", budget, available,
              promised)  # fmt: skip
    return budget


@contextlib.contextmanager
def promise(budget: Callable[[], int]) -> Iterator[int]:
    """The bytes of `budget` for a model to be loaded in this block; `auto` counts them as taken.

    Raises:
        MemoryBudgetError: the machine does not have so much.
    """
    load = object()
    with _lock:
        nbytes = budget()
        _check_total(nbytes)
        _loading[load] = nbytes
    try:
        yield nbytes
    finally:
        with _lock:
            _loading.pop(load, None)


@contextlib.contextmanager
def change(model: Any, memory: str | int, advised: int | None) -> Iterator[int]:
    """The bytes of another budget for a native model, which gets it in this block.

    Raises:
        FormatError: `memory` is no size.
        MemoryBudgetError: the machine does not have so much, or `advised` is less.
    """
    growth = object()
    with _lock:
        nbytes = budget_bytes(memory, model)
        if memory == "auto" and advised is not None:
            nbytes = min(nbytes, advised)
        _check_total(nbytes)
        _loading[growth] = max(nbytes - model.stats()["memory_bytes"], 0)
    try:
        yield nbytes  # without the lock: it may take its turn behind a long step
    finally:
        with _lock:
            _loading.pop(growth, None)


def _check_total(nbytes: int) -> None:
    if nbytes > (total := total_bytes()):
        raise MemoryBudgetError(
            f"[memory] a budget is more than this machine, or the container, has: expected at "
            f"most {total} bytes, found {nbytes}"
        )


def hold(model: Any) -> None:
    """Counts a native model's budget as promised for as long as it lives."""
    with _lock:
        _models.add(model)


def _forget() -> None:
    """In a forked child, whose models grow in the parent alone."""
    global _lock
    _lock = threading.RLock()
    _loading.clear()
    _models.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
