"""Checksums of the files that a conversion has finished, in its note."""

from __future__ import annotations

import zlib
from pathlib import Path

from ..arguments import show
from ..checkpoint import read_json
from ..durable import write_json
from ..errors import FormatError
from ..packing import read_back
from ..packing.beside import Report

KEY = "crc32"  # of the note: the checksums, by the names of files


class Sum:
    """The CRC-32 of bytes that come in pieces."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, piece: memoryview) -> None:
        """Goes on with a piece."""
        self.value = zlib.crc32(piece, self.value)


def add(note: Path, name: str, checksum: int) -> None:
    """Notes that of a file, which gets its name afterwards: one that has it is in the note."""
    said = read_json(note)
    said[KEY] = _of(note) | {name: f"{checksum:08x}"}
    write_json(note, said, indent=1)


def check(note: Path, path: Path, report: Report) -> None:
    """Reads a file that an earlier run has finished.

    Raises:
        FormatError: its bytes are not those that were written.
        IoError: it cannot be read.
    """
    expected, nbytes = _of(note).get(path.name), path.stat().st_size
    found = "".join(f"{crc:08x}" for crc in
                    read_back.checksums(path, 0, [nbytes], report, "convert"))  # fmt: skip
    if found != expected:
        raise FormatError(f"[convert] expected a file of checksum {show(expected)}, found "
                          f"{found}; remove it and run again ({path})")  # fmt: skip


def _of(note: Path) -> dict[str, str]:
    found = read_json(note).get(KEY, {})
    if not isinstance(found, dict):
        raise FormatError(f"[convert] expected an object {KEY}, found {show(found)} ({note})")
    return found
