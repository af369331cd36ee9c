"""Frees bytes of a file without moving the rest: holes, where the file system knows them.

FALLOC_FL_PUNCH_HOLE gives a range's blocks back to the disk; the file keeps its size and reads
zeros there. Linux has it on ext4, xfs, btrfs, tmpfs and others. It cannot be undone, so a range is
freed only when its copy has been read back from disk and found equal.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import FormatError, IoError
from ..holes import is_hole
from ..spec import Range

# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
LONG_BYTES = 1 << 16  # of a range that surely has whole blocks


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


def require_unshared(folder: Path, files: Iterable[Path]) -> None:
    """Refuses files that something outside of `folder` may use: it would read zeros there.

    Raises:
        FormatError: a file is a link that leaves the folder (snapshots in the hub's cache share
            their files like that), or has a second name (a hard link).
    """
    root = folder.resolve()
    for file in files:
        real = file.resolve()
        if not real.is_relative_to(root):
            found = f"a link to {real}"
        elif (names := real.stat().st_nlink) > 1:
            found = f"{names} hard links to one file"
        else:
            continue
        raise FormatError(f"[pack] --replace empties the source's files: expected files that no "
                          f"other folder uses, found {found}; pack without --replace instead "
                          f"({file})")  # fmt: skip


def free(files: list[Path], ranges: Iterable[Range]) -> None:
    """Frees ranges, neighbours together. Freeing what is free already does no harm.

    Raises:
        IoError: a file cannot be written.
    """
    for number, places in _by_file(ranges):
        try:
            descriptor = os.open(files[number], os.O_RDWR | os.O_CLOEXEC)
            try:
                for place in places:
                    _fallocate(descriptor, place.offset, place.nbytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise IoError(f"[pack] cannot free source ranges: {error.strerror} "
                          f"({files[number]})") from error  # fmt: skip


def are_free(files: list[Path], ranges: Iterable[Range]) -> bool:
    """Whether the ranges are holes, as `free` leaves them; False when all are short."""
    found: list[bool] = []
    for number, places in _by_file(ranges):
        with files[number].open("rb", buffering=0) as stream:
            found += [is_hole(stream.fileno(), place.offset, place.offset + place.nbytes)
                      for place in places if place.nbytes >= LONG_BYTES]  # fmt: skip
    return bool(found) and all(found)


def _by_file(ranges: Iterable[Range]) -> Iterator[tuple[int, list[Range]]]:
    """(file, its ranges in order, neighbours made one), by file."""
    ordered = sorted(ranges, key=lambda place: (place.file, place.offset))
    for number, places in itertools.groupby(ordered, key=lambda place: place.file):
        merged: list[Range] = []
        for place in places:
            last = merged[-1] if merged else None
            if last and last.offset + last.nbytes == place.offset:
                merged[-1] = Range(number, last.offset, last.nbytes + place.nbytes)
            else:
                merged.append(place)
        yield number, merged
