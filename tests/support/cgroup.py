"""Runs a command in a child memory cgroup (v1 or v2): the one helper that makes such groups."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What came of the command. `peak_bytes` is the group's highest use, page cache included."""

    returncode: int
    stdout: str
    stderr: str
    peak_bytes: int


def _parent() -> tuple[Path, str, str] | None:
    """(folder, limit file, peak file) of the memory cgroup that this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory") / name.lstrip("/")
            return folder, "memory.limit_in_bytes", "memory.max_usage_in_bytes"
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return root, "memory.max", "memory.peak"
    return None


def available() -> bool:
    """Whether this process may make a child group here."""
    parent = _parent()
    return parent is not None and os.geteuid() == 0 and os.access(parent[0], os.W_OK)


@contextmanager
def group(limit_bytes: int) -> Iterator[list[str]]:
    """A child group under `limit_bytes`: what to put before a command so that it runs there.

    At the end it waits for what the command has started, as far as that ends with it.
    """
    parent = _parent()
    assert parent is not None
    folder = parent[0] / f"moeflux-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / parent[1]).write_text(str(limit_bytes))
        yield ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(folder)]
    finally:
        end = time.monotonic() + 10
        while (folder / "cgroup.procs").read_text() and time.monotonic() < end:
            time.sleep(0.05)
        folder.rmdir()


def run(command: list[str], limit_bytes: int, env: dict[str, str] | None = None) -> Result:
    """Runs `command` under `limit_bytes`; the group is removed afterwards."""
    parent = _parent()
    assert parent is not None
    with group(limit_bytes) as prefix:
        done = subprocess.run(
            [*prefix, *command],
            capture_output=True,
            text=True,
            env=env,
            timeout=300,
            check=False,
        )
        peak = int((Path(prefix[-1]) / parent[2]).read_text())
        return Result(done.returncode, done.stdout, done.stderr, peak)


def drop_page_cache(folder: Path) -> None:
    """Asks the kernel to forget a folder's cached pages, so that reads meet the disk."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
