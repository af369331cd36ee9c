"""Reads files back from disk, not from memory."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import IoError
from ..packed import RECORD_ALIGNMENT, round_up

READ_BYTES = 16 << 20  # of a file at a time: a multiple of RECORD_ALIGNMENT


def checksums(
    path: Path, begin: int, ends: Sequence[int], report: Callable[[int], None],
    tag: str = "packed", each: Callable[[memoryview], None] = lambda chunk: None,
) -> Iterator[int]:  # fmt: skip
    """CRC-32 of ranges of a file that lie one behind the other.

    Args:
        path: the file.
        begin: of the first range.
        ends: of all.
        report: told about bytes as they are read.
        tag: names the command in messages.
        each: gets the bytes as they are read, from `begin` rounded down to a block on.

    Raises:
        IoError: they cannot be read.
    """
    left = iter(ends)
    end, position, found = next(left, None), begin, 0
    for at, chunk in _chunks(path, begin // RECORD_ALIGNMENT * RECORD_ALIGNMENT, ends, tag):
        each(chunk)
        behind = at + len(chunk)
        report(behind - position)
        while end is not None and end <= behind:
            yield zlib.crc32(chunk[position - at : end - at], found)
            position, found, end = end, 0, next(left, None)
        found = zlib.crc32(chunk[position - at :], found)
        position = behind


def _chunks(
    path: Path, begin: int, ends: Sequence[int], tag: str
) -> Iterator[tuple[int, memoryview]]:
    """Offsets and bytes, up to the last of `ends`; bytes are gone with the next."""
    descriptor = _open_past_cache(path, tag)
    # Page-aligned, as direct reads want it; of a size that no file chooses.
    buffer = mmap.mmap(-1, READ_BYTES)
    try:
        view = memoryview(buffer)
        for at in range(begin, ends[-1] if ends else begin, READ_BYTES):
            nbytes = min(READ_BYTES, ends[-1] - at)
            _fill(descriptor, at, view, nbytes, path, tag)
            yield at, view[:nbytes]
    finally:
        os.close(descriptor)


def _open_past_cache(path: Path, tag: str) -> int:
    """Opened for direct reads; where there are none, with what the page cache holds dropped."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    direct: int | None = getattr(os, "O_DIRECT", None)
    if direct is not None:
        with contextlib.suppress(OSError):  # a file system may refuse (tmpfs on older kernels)
            return os.open(path, flags | direct)
    try:
        descriptor = os.open(path, flags)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if hasattr(fcntl, "F_NOCACHE"):  # macOS
            fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
    except OSError as error:
        raise IoError(f"[{tag}] cannot open: {error.strerror} ({path})") from error
    return descriptor


def _fill(descriptor: int, offset: int, out: memoryview, nbytes: int, path: Path, tag: str) -> None:
    done = 0
    while done < nbytes:
        # Asked for in whole blocks: at the end of the file the kernel gives what there is.
        wanted = round_up(nbytes - done, RECORD_ALIGNMENT)
        try:
            got = os.preadv(descriptor, [out[done : done + wanted]], offset + done)
        except OSError as error:
            raise IoError(f"[{tag}] cannot read: {error.strerror} ({path})") from error
        if got == 0:
            raise IoError(f"[{tag}] file ended early at {offset + done} ({path})")
        done += got
