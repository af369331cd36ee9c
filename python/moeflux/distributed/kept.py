"""Answers of rows in files that only grow: what a run that was ended goes on from.

Each process writes a file of its own in one folder and reads those of all at its start. A line that
was cut, or is damaged, does not count.
"""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import files
from ..errors import IoError

SUFFIX = ".rows"
MAX_BYTES = 1 << 34  # of one file


class Kept:
    """Answers by the name of their row.

    Args:
        folder: that is made where it does not exist; None keeps nothing.

    Raises:
        IoError: the folder cannot be made or read.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._known: dict[str, Any] = {}
        self._folder = None if folder is None else Path(folder)
        self._name = f"{uuid.uuid4().hex}{SUFFIX}"
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = sorted(self._folder.glob(f"*{SUFFIX}"))
        except OSError as error:
            raise IoError(f"[batch] cannot keep answers: {error.strerror} "
                          f"({self._folder})") from None  # fmt: skip
        for path in found:
            self._known |= _read(path)

    def get(self, name: str) -> Any:
        """The answer of a row; None: there is none yet."""
        return self._known.get(name)

    def add(self, rows: Mapping[str, Any]) -> None:
        """Takes answers, on the disk when it returns. Raises IoError where they find no room."""
        self._known |= rows
        if self._folder is None or not rows:
            return
        lines = [json.dumps([name, answer]).encode() for name, answer in rows.items()]
        try:
            with open(self._folder / self._name, "ab") as stream:
                stream.writelines(b"%08x %s\n" % (zlib.crc32(line), line) for line in lines)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise IoError(f"[batch] cannot keep answers: {error.strerror} "
                          f"({self._folder})") from None  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    """The answers of all whole lines."""
    found: dict[str, Any] = {}
    with files.regular_file(path) as (stream, size):
        if size > MAX_BYTES:
            raise IoError(f"[batch] expected at most {MAX_BYTES} bytes, found {size} ({path})")
        for line in stream:
            head, _, said = line[:-1].partition(b" ")
            if not line.endswith(b"\n") or head != b"%08x" % zlib.crc32(said):
                continue
            name, answer = json.loads(said)
            found[name] = answer
    return found
