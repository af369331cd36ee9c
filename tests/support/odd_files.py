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
    """Replaces what is there by something of that kind."""
    remove(path)
    KINDS[kind](path)


def remove(path: Path) -> None:
    """Removes a file, or one of these."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)


def data(path: Path) -> bytes:
    """The bytes of a file; of what is none, or huge, an empty JSON object."""
    whole = path.is_file() and path.stat().st_size < HUGE
    return path.read_bytes() if whole else b"{}"
