"""Frees bytes of a file without moving the rest: holes, where the file system knows them.

FALLOC_FL_PUNCH_HOLE gives a range's blocks back to the disk; the file keeps its size and reads
zeros there. Linux has it on ext4, xfs, btrfs, tmpfs and others. It cannot be undone, so a range is
freed only when its copy has been read back from disk and found equal.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import IoError
from .sources import Range

# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02


def _fallocate(descriptor: int, offset: int, nbytes: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or library.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, nbytes) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def require_support(files: Iterable[Path]) -> None:
    """Tries it on a file of our own beside each of the files (links followed).

    Raises:
        IoError: the system, the file system or the permissions do not allow it.
    """
    for folder in sorted({file.resolve().parent for file in files}):
        if not sys.platform.startswith("linux"):
            raise IoError(f"[pack] --replace frees ranges of files, which only Linux does: "
                          f"expected linux, found {sys.platform}")  # fmt: skip
        try:
            with tempfile.NamedTemporaryFile(prefix="moeflux-punch-", dir=folder) as file:
                file.write(bytes(1 << 16))
                file.flush()
                _fallocate(file.fileno(), 0, 1 << 16)
        except OSError as error:
            raise IoError(f"[pack] --replace needs a file system that can free a part of a file: "
                          f"{error.strerror} ({folder}); pack without it instead"
                          ) from error  # fmt: skip


def free(files: list[Path], ranges: Iterable[Range]) -> None:
    """Frees ranges, neighbours together. Freeing what is free already does no harm.

    Raises:
        IoError: a file cannot be written.
    """
    merged: list[Range] = []
    for place in sorted(ranges, key=lambda place: (place.file, place.offset)):
        last = merged[-1] if merged else None
        if last and last.file == place.file and last.offset + last.nbytes == place.offset:
            merged[-1] = Range(last.file, last.offset, last.nbytes + place.nbytes)
        else:
            merged.append(place)
    for number in sorted({place.file for place in merged}):
        try:
            descriptor = os.open(files[number], os.O_RDWR | os.O_CLOEXEC)
            try:
                for place in merged:
                    if place.file == number:
                        _fallocate(descriptor, place.offset, place.nbytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise IoError(f"[pack] cannot free source ranges: {error.strerror} "
                          f"({files[number]})") from error  # fmt: skip
