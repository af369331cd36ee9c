"""What may stand where a file is expected, by name."""

import os
from pathlib import Path

HUGE = 1 << 40  # bytes, all of them a hole


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


KINDS = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "huge file": _sparse,
}


def put(path: Path, kind: str) -> None:
    """Replaces the file by something of that kind."""
    path.unlink(missing_ok=True)
    KINDS[kind](path)
