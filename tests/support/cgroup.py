"""Runs a command in a child memory cgroup (v1 or v2): the one helper that makes such groups."""

from __future__ import annotations

import os
import subprocess
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


def run(command: list[str], limit_bytes: int, env: dict[str, str] | None = None) -> Result:
    """Runs `command` under `limit_bytes`; the group is removed afterwards."""
    parent = _parent()
    assert parent is not None
    folder, limit, peak = parent
    group = folder / f"moeflux-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(limit_bytes))
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, str(group), *command],
            capture_output=True,
            text=True,
            env=env,
            timeout=300,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, int((group / peak).read_text()))
    finally:
        group.rmdir()


def drop_page_cache(folder: Path) -> None:
    """Asks the kernel to forget a folder's cached pages, so that reads meet the disk."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
