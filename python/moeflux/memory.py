"""How much memory a model may take: sizes as people write them, and what `auto` comes to."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from .errors import FormatError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
HEAD_ROOM = 0.8  # of what is available: page cache, interpreter and neighbours need the rest


def parse_bytes(text: str | int) -> int:
    """Turns "12GiB", "500MB" or a number of bytes into bytes.

    Raises:
        FormatError: it is no positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", str(text).lower())
    value = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if value <= 0:
        raise FormatError(f"[memory] expected a size such as 12GiB, found {text!r}")
    return min(value, 2**62)


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
