"""Writes a file in pieces with a checksum each, and reads it back from disk, not from memory."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from ..durable import PART, new_part, publish
from ..errors import FormatError, IoError
from ..packed import checksums
from ..safetensors_header import read_header
from . import read_back
from .beside import Report


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
    with new_part(path) as stream:
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
    ends = [min(begin + index * size + size, end) for index in range(len(expected))]
    for index, found in enumerate(read_back.checksums(path, begin, ends, report)):
        if found != expected[index]:
            raise FormatError(f"[packed] checksum of piece {index} at offset "
                              f"{begin + index * size}: expected {expected[index]:08x}, found "
                              f"{found:08x} ({path})")  # fmt: skip
