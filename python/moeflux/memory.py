"""How much memory a model may take: sizes as people write them, and what `auto` comes to."""

from __future__ import annotations

import contextlib
import math
import re
from pathlib import Path
from typing import Any

from .arguments import Rule, is_integer, is_number, show
from .errors import FormatError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
MOST_BYTES = 2**62
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*")
HEAD_ROOM = 0.8  # of what is available: page cache, interpreter and neighbours need the rest


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


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of every memory cgroup this process is in, v1 and v2."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = Path("/sys/fs/cgroup/memory")
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        here = root / name.lstrip("/")
        for folder in (here, *here.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or no such file
                amounts = int((folder / limit).read_text()), int((folder / used).read_text())
                found.append(amounts)
            if folder == root:
                break
    return found


def available_bytes() -> int:
    """Memory that can be had now: the least of MemAvailable and every cgroup's remaining room."""
    rooms = [limit - used for limit, used in _cgroup_limits() if limit < 2**60]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                rooms.append(int(line.split()[1]) * 1024)
    except OSError:
        import os

        rooms.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return max(min(rooms), 0)


def budget_bytes(memory: str | int) -> int:
    """The budget that `memory` asks for; "auto" is a share of what is available."""
    if memory == "auto":
        return max(int(available_bytes() * HEAD_ROOM), 1)
    return parse_bytes(memory)
