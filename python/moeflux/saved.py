"""The file of a snapshot: what was computed of which tokens, by which model.

    0    16 bytes: 89, "moeflux.snap", 0d 0a 1a, which no text begins with
    16   version, length of the header, CRC-32 of all before and of the header, as uint32
    28   the header: a JSON object
    ...  three sections: token ids (uint32), the note (UTF-8), the state (`NativeSnapshot.read`),
         each cut into pieces of 1 MiB. A CRC-32 follows each piece and goes on from the one before,
         so that it covers all of the file up to there.

Numbers are little-endian. The header says how long the sections are; what the length of the state
must be is known from the model alone. CRC-32 finds what disks and copies do to a file, not what
somebody who can compute one does: a state has no addresses or sizes that could do harm, but it can
make a model say anything.
"""

from __future__ import annotations

import json
import os
import struct
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .arguments import is_integer, show
from .durable import SPARE_BYTES, private_file, require_space
from .errors import FormatError, IoError
from .files import regular_file

MAGIC, VERSION = b"\x89moeflux.snap\r\n\x1a", 1
_PREFIX = struct.Struct("<16sII")
_SUM = struct.Struct("<I")
PIECE = 1 << 20
MAX_HEADER_BYTES = 1 << 16
MAX_NOTE_BYTES = 64 << 20
MAX_TOKENS = 1 << 24  # as the context of `load`


class OtherVersion(FormatError):
    """A file of another version of this format."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        model: what must be equal for its state to be another session's: names and JSON values.
        position: tokens that the state holds.
        n_tokens: `position`, or 0 where the file does not say which they are.
        note_bytes: of the note.
        state_bytes: of the state.
    """

    model: dict[str, Any]
    position: int
    n_tokens: int
    note_bytes: int
    state_bytes: int


def file_bytes(state_bytes: int, n_tokens: int) -> int:
    """What a file with a state and its tokens takes at most."""
    pieces = -(-state_bytes // PIECE) - (-4 * n_tokens // PIECE)
    return MAX_HEADER_BYTES + state_bytes + 4 * n_tokens + _SUM.size * pieces


def write(
    path: Path,
    header: Header,
    tokens: NDArray[np.uint32] | None,
    note: bytes,
    state: Callable[[int, memoryview], None],
) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: of it.
        header: of it.
        tokens: that the state holds.
        note: text in UTF-8.
        state: fills a buffer with the state's bytes from a place on.

    Raises:
        IoError: it cannot be written, or the disk has no room for it.
    """
    head = json.dumps(vars(header)).encode()
    prefix = _PREFIX.pack(MAGIC, VERSION, len(head))
    known = memoryview(b"" if tokens is None else tokens.astype("<u4").tobytes())
    try:
        with private_file(path) as stream:
            if header.state_bytes > SPARE_BYTES:
                require_space(Path(os.path.realpath(path)), header.state_bytes, "snapshot")
            crc = zlib.crc32(head, zlib.crc32(prefix))
            stream.write(prefix + _SUM.pack(crc) + head)
            for section in (known, memoryview(note)):
                for begin in range(0, len(section), PIECE):
                    crc = _put(stream, section[begin : begin + PIECE], crc)
            buffer = memoryview(bytearray(min(PIECE, header.state_bytes)))
            for begin in range(0, header.state_bytes, PIECE):
                piece = buffer[: header.state_bytes - begin]
                state(begin, piece)
                crc = _put(stream, piece, crc)
    except OSError as error:
        if isinstance(error, IoError):
            raise
        _let_go(error)
        raise IoError(f"[snapshot] cannot write: {error.strerror or error} ({path})") from error


def _let_go(error: BaseException | None) -> None:
    """Drops what the frames of an error hold.

    Where a buffer cannot be flushed, Python 3.12 leaves them in a cycle: the snapshot would keep
    its memory until the collector comes.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _put(stream: BinaryIO, piece: memoryview, crc: int) -> int:
    crc = zlib.crc32(piece, crc)
    stream.write(piece)
    stream.write(_SUM.pack(crc))
    return crc


class Reader:
    """An open file whose header is right. What it holds is read in the order of the methods.

    Attributes:
        header: of it.
    """

    def __init__(self, stream: BinaryIO, size: int, path: Path) -> None:
        self._stream, self._size, self.path = stream, size, path
        self._buffer = memoryview(b"")
        self.header, self._crc = self._read_header()

    def fail(self, what: str) -> FormatError:
        """An error about this file."""
        return FormatError(f"[snapshot] {what} ({self.path})")

    def tokens(self) -> NDArray[np.uint32] | None:
        """The tokens that the state holds; None where the file does not say."""
        if not self.header.n_tokens:
            return None
        data = b"".join(map(bytes, self._pieces(4 * self.header.n_tokens)))
        return np.frombuffer(data, dtype="<u4").astype(np.uint32)

    def note(self) -> str:
        """The note."""
        data = b"".join(map(bytes, self._pieces(self.header.note_bytes)))
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"expected a note in UTF-8, found {error}") from None

    def state(self) -> Iterator[tuple[int, memoryview]]:
        """(place, bytes) of the state, each checked, and gone when the next is asked for."""
        begin = 0
        for piece in self._pieces(self.header.state_bytes):
            yield begin, piece
            begin += len(piece)

    def _read_header(self) -> tuple[Header, int]:
        least = _PREFIX.size + _SUM.size
        prefix = self._stream.read(least)
        magic, version, length = _PREFIX.unpack(prefix[: _PREFIX.size].ljust(_PREFIX.size, b"\0"))
        if magic != MAGIC or len(prefix) < least:
            raise self.fail("expected a file of a snapshot, found another")
        if version != VERSION:
            raise OtherVersion(str(self.fail(f"expected version {VERSION}, found {version}")))
        if length > min(MAX_HEADER_BYTES, self._size - least):
            raise self.fail(f"expected a header within {self._size} bytes, found {length} of it")
        text, (crc,) = self._stream.read(length), _SUM.unpack(prefix[_PREFIX.size :])
        if zlib.crc32(text, zlib.crc32(prefix[: _PREFIX.size])) != crc:
            raise self.fail("expected the header that was written, found a damaged one")
        header = self._parse(text)
        sizes = (4 * header.n_tokens, header.note_bytes, header.state_bytes)
        whole = least + length + sum(n + _SUM.size * -(-n // PIECE) for n in sizes)
        if whole != self._size:
            raise self.fail(f"expected {whole} bytes, found {self._size}")
        return header, crc

    def _parse(self, text: bytes) -> Header:
        try:
            said = json.loads(text)
            header = Header(**said)
        except (ValueError, TypeError, RecursionError) as error:
            raise self.fail(f"expected a header, found {error}") from None
        most = {"position": MAX_TOKENS, "n_tokens": MAX_TOKENS, "note_bytes": MAX_NOTE_BYTES,
                "state_bytes": 1 << 62}  # fmt: skip
        for name, high in most.items():
            value = getattr(header, name)
            if not is_integer(value) or not 0 <= value <= high:
                raise self.fail(f"expected {name} in 0..{high}, found {show(value)}")
        if header.n_tokens not in (0, header.position) or not isinstance(header.model, dict):
            raise self.fail(f"expected {header.position} tokens of a model, found "
                            f"{header.n_tokens} of {show(header.model)}")  # fmt: skip
        return header

    def _pieces(self, nbytes: int) -> Iterator[memoryview]:
        if len(self._buffer) < min(nbytes, PIECE):
            self._buffer = memoryview(bytearray(min(nbytes, PIECE)))
        for begin in range(0, nbytes, PIECE):
            piece = self._buffer[: nbytes - begin]
            read, end = self._stream.readinto(piece), self._stream.read(_SUM.size)  # type: ignore[attr-defined]
            self._crc = zlib.crc32(piece, self._crc)
            if read < len(piece) or end != _SUM.pack(self._crc):
                raise self.fail("expected what was written, found damage or another length")
            yield piece


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """A file whose header has been checked.

    Raises:
        IoError: it cannot be read.
        FormatError: it is no snapshot's, or is damaged, here or where it is read.
    """
    with regular_file(path) as (stream, size):
        yield Reader(stream, size, path)
