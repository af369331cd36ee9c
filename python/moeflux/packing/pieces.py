"""Writes a file in pieces with a checksum each, and reads it back from disk, not from memory."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from ..durable import PART, publish
from ..errors import FormatError, IoError
from ..packed import RECORD_ALIGNMENT, checksums, round_up
from ..safetensors_header import read_header

Report = Callable[[int], None]
READ_BYTES = 16 << 20  # of a file that is read back: a multiple of RECORD_ALIGNMENT


def write(
    path: Path,
    header: Callable[[str], bytes],
    pieces: Iterable[memoryview],
    n_pieces: int,
    wrote: Report,
    verified: Report,
) -> None:
    """Writes, syncs and reads back; only then the file gets its name.

    Args:
        path: the file to be.
        header: makes the header of the checksums, of a length that does not depend on them.
        pieces: the data.
        n_pieces: how many there are.
        wrote: told about bytes as they are written.
        verified: told about bytes as they are read back.

    Raises:
        IoError: what was read back is not what was written.
    """
    part = path.with_name(path.name + PART)
    found: list[int] = []
    with part.open("wb") as stream:
        stream.write(header("0" * 8 * n_pieces))
        for piece in pieces:
            found.append(zlib.crc32(piece))
            stream.write(piece)
            wrote(piece.nbytes)
        stream.seek(0)
        stream.write(header("".join(f"{value:08x}" for value in found)))
        stream.flush()
        os.fsync(stream.fileno())
    try:
        verify(part, verified)
    except FormatError as error:
        raise IoError(f"[pack] the disk did not keep what was written: {error}") from error
    publish(part, path)


def verify(path: Path, report: Report = lambda _: None) -> None:
    """Compares every piece of a packed file with its checksum.

    Raises:
        FormatError: a piece differs, or the file is no packed file.
        IoError: it cannot be read.
    """
    tensors, metadata = read_header(path, 0)
    begin = min((tensor.offset for tensor in tensors.values()), default=0)
    end = max((tensor.offset + tensor.nbytes for tensor in tensors.values()), default=0)
    size, expected = checksums(metadata, end - begin, path)
    descriptor = _open_past_cache(path)
    # Page-aligned, as direct reads want it; of a size that no file chooses.
    buffer = mmap.mmap(-1, READ_BYTES)
    try:
        view = memoryview(buffer)
        for index, checksum in enumerate(expected):
            offset, found = begin + index * size, 0
            for at in range(offset, min(offset + size, end), READ_BYTES):
                nbytes = min(READ_BYTES, offset + size - at, end - at)
                _fill(descriptor, at, view, nbytes, path)
                found = zlib.crc32(view[:nbytes], found)
                report(nbytes)
            if found != checksum:
                raise FormatError(f"[packed] checksum of piece {index} at offset {offset}: "
                                  f"expected {checksum:08x}, found {found:08x} "
                                  f"({path})")  # fmt: skip
        view.release()
    finally:
        os.close(descriptor)


def _open_past_cache(path: Path) -> int:
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
        raise IoError(f"[packed] cannot open: {error.strerror} ({path})") from error
    return descriptor


def _fill(descriptor: int, offset: int, out: memoryview, nbytes: int, path: Path) -> None:
    done = 0
    while done < nbytes:
        # Asked for in whole blocks: at the end of the file the kernel gives what there is.
        wanted = round_up(nbytes - done, RECORD_ALIGNMENT)
        try:
            got = os.preadv(descriptor, [out[done : done + wanted]], offset + done)
        except OSError as error:
            raise IoError(f"[packed] cannot read: {error.strerror} ({path})") from error
        if got == 0:
            raise IoError(f"[packed] file ended early at {offset + done} ({path})")
        done += got
