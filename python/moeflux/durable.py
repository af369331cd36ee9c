"""Files that are whole or absent: written under another name, synced, then renamed.

Knows no format. `synth` and `pack` build on it: whatever kills them, a file of its final name is
complete, and running the command again goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import IoError

PART = ".part"
SPARE_BYTES = 64 << 20  # left free: a file system that is filled to the brim serves nobody


def require_space(folder: Path, nbytes: int, tag: str) -> None:
    """Refuses before anything is written.

    Args:
        folder: where `nbytes` more are to go; it exists.
        nbytes: what is still to be written.
        tag: names the command in the message.

    Raises:
        IoError: the disk has no room for it.
    """
    free = shutil.disk_usage(folder).free
    if nbytes + SPARE_BYTES > free:
        raise IoError(
            f"[{tag}] the disk is short: expected {nbytes + SPARE_BYTES:,} free bytes, "
            f"found {free:,} ({folder})"
        )


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(part: Path, final: Path) -> None:
    """Gives a complete, synced file its final name."""
    os.replace(part, final)
    sync_folder(final.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it appears as `path` when the block ends well, synced and complete."""
    part = path.with_name(path.name + PART)
    with part.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    publish(part, path)


def write_text(path: Path, text: str) -> None:
    """A small file, whole or absent."""
    with whole_file(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """A JSON file, whole or absent; without indentation, which takes seconds for a vocabulary."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent))
