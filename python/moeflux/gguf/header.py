"""The head of a GGUF file: its keys and its table of tensors. Reads no weights.

    "GGUF"  u32 version  u64 n_tensors  u64 n_keys      little-endian; versions 2 and 3
    n_keys of     string key, u32 type, value           a string is a u64 length and UTF-8
    n_tensors of  string name, u32 n_dims, u64 dims (innermost first), u32 type, u64 offset
    zeros up to a multiple of `general.alignment` (32); data, from where offsets count

Files are hostile: nothing is allocated from a number that the file's size does not bear out. What
llama.cpp refuses is refused: tensors that do not follow each other in the table's order, arrays of
arrays, more than 4 dimensions. Source: ggml's reader.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..arguments import show
from ..errors import FormatError
from ..safetensors_header import fail
from .types import REMOVED, TYPES, Type

MAGIC = b"GGUF"
MAX_BYTES = 128 << 20  # of a head; those with the largest vocabularies have 20 MB
MAX_KEYS, MAX_TENSORS = 1 << 16, 1 << 16
MAX_TEXT, MAX_NAME = 64 << 20, 63
MAX_ALIGNMENT = 1 << 20
FIRST_READ = 1 << 20
_DTYPES = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
           10: "<u8", 11: "<i8", 12: "<f8"}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9

# Bytes (offset, count) of a file; as many as there are.
Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Entry:
    """A row of the table of tensors.

    Attributes:
        shape: outermost first, [out, in] or [experts, out, in].
        offset: in the file.
    """

    name: str
    type: Type
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a file says before its weights.

    Attributes:
        metadata: numbers, truth values, texts; arrays of numbers are numpy's, those of texts lists
            of bytes, since a token need not be UTF-8.
        entries: in the order of their data.
    """

    path: Path
    metadata: dict[str, Any]
    entries: list[Entry]


class _Cursor:
    """The head from its begin to where it was read; says where it stands when it refuses."""

    def __init__(self, read: Read, size: int, path: Path) -> None:
        self._read, self.size, self.path = read, size, path
        self._limit = min(size, MAX_BYTES)
        self._data = b""
        self.at = 0

    def bad(self, what: str) -> FormatError:
        return fail("gguf", f"{what} at byte {self.at}", self.path)

    @property
    def left(self) -> int:
        return self._limit - self.at

    def need(self, count: int, what: str) -> None:
        """Reads on until the next `count` bytes are there."""
        end = self.at + count
        if end <= len(self._data):
            return
        if end > self._limit:
            raise self.bad(f"expected {count} bytes of {what}, found {self.left}")
        begin = len(self._data)
        target = min(max(end, 2 * begin, FIRST_READ), self._limit)
        self._data += self._read(begin, target - begin)
        if len(self._data) < end:
            raise self.bad(f"expected {count} bytes of {what}, found the file shortened")

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        self.at += count
        return self._data[self.at - count : self.at]

    def number(self, code: str, what: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))
        return int(value)

    def string(self, what: str, limit: int = MAX_TEXT) -> bytes:
        count = self.number("Q", f"length of {what}")
        if count > min(limit, self.left):
            raise self.bad(f"expected at most {min(limit, self.left)} bytes of {what}, "
                           f"found a length of {count}")  # fmt: skip
        return self.take(count, what)

    def text(self, what: str, limit: int = MAX_TEXT) -> str:
        try:
            return self.string(what, limit).decode()
        except UnicodeDecodeError:
            raise self.bad(f"expected UTF-8 in {what}") from None

    def value(self, key: str) -> Any:
        """A value of any type."""
        kind = self.number("I", f"type of {key}")
        if kind == _STRING:
            return self.text(key)
        if kind != _ARRAY:
            return self.numbers(kind, 1, key)[0].item()
        kind, count = self.number("I", f"type of {key}"), self.number("Q", f"length of {key}")
        if kind == _ARRAY:
            raise self.bad(f"expected an array of numbers or texts in {key}, found one of arrays")
        return self.strings(count, key) if kind == _STRING else self.numbers(kind, count, key)

    def numbers(self, kind: int, count: int, key: str) -> Any:
        if kind not in _DTYPES:
            raise self.bad(f"expected a value type of 0 to 12 in {key}, found {kind}")
        dtype = np.dtype(_DTYPES[kind])
        if count > self.left // dtype.itemsize:
            raise self.bad(f"expected at most {self.left // dtype.itemsize} values in {key}, "
                           f"found a count of {count}")  # fmt: skip
        data = self.take(count * dtype.itemsize, key)
        if kind == _BOOL and data.translate(None, b"\0\1"):
            raise self.bad(f"expected 0 or 1 as truth values in {key}")
        return np.frombuffer(data, dtype)

    def strings(self, count: int, key: str) -> list[bytes]:
        if count > self.left // 8:
            raise self.bad(f"expected at most {self.left // 8} texts in {key}, "
                           f"found a count of {count}")  # fmt: skip
        unpack = struct.Struct("<Q").unpack_from
        found: list[bytes] = []
        data, at = self._data, self.at
        for _ in range(count):  # a vocabulary has hundreds of thousands
            begin = at + 8
            if begin > len(data) or unpack(data, at)[0] > len(data) - begin:
                self.at = at
                found.append(self.string(key))
                data, at = self._data, self.at
            else:
                at = begin + unpack(data, at)[0]
                found.append(data[begin:at])
        self.at = at
        return found


def _metadata(cursor: _Cursor, n_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.text("a key", 65535)
        if not key or key in metadata:
            raise cursor.bad(f"expected keys that differ and are not empty, found {show(key)}")
        metadata[key] = cursor.value(show(key))
    return metadata


def _row(cursor: _Cursor) -> tuple[str, Type, tuple[int, ...], int, int]:
    """Name, type, shape, bytes and offset (in the data) of a tensor."""
    name = cursor.text("a tensor's name", MAX_NAME)
    n_dims = cursor.number("I", f"dimensions of {show(name)}")
    if n_dims > 4:
        raise cursor.bad(f"expected up to 4 dimensions of {show(name)}, found {n_dims}")
    dims = [cursor.number("Q", f"a dimension of {show(name)}") for _ in range(n_dims)] or [1]
    number = cursor.number("I", f"type of {show(name)}")
    offset = cursor.number("Q", f"offset of {show(name)}")
    if number not in TYPES:
        found = f"{REMOVED[number]}, which ggml has no more" if number in REMOVED else str(number)
        if number == 4:  # in Ollama's own files it is MXFP4
            found += ": take a file of the model that was made for llama.cpp"
        raise cursor.bad(f"expected a known type of {show(name)}, found {found}")
    kind, count = TYPES[number], math.prod(dims)
    if min(dims) < 1 or count >= 1 << 60:
        raise cursor.bad(f"expected a size of {show(name)} in 1..2^60, found {dims}")
    if dims[0] % kind.columns:
        raise cursor.bad(f"expected rows of whole blocks of {kind.columns} in {show(name)} "
                         f"({kind.name}), found {dims[0]}")  # fmt: skip
    return name, kind, tuple(reversed(dims)), count // kind.columns * kind.nbytes, offset


def _entries(cursor: _Cursor, n_tensors: int, alignment: int) -> list[Entry]:
    rows = [_row(cursor) for _ in range(n_tensors)]
    begin = -(-cursor.at // alignment) * alignment
    end, names, entries = 0, set(), []
    for name, kind, shape, nbytes, offset in rows:
        if name in names:
            raise cursor.bad(f"expected each tensor once, found {show(name)} again")
        names.add(name)
        if offset != end:
            raise cursor.bad(f"expected {show(name)} at {end} of the data, behind the tensor "
                             f"before it, found offset {offset}")  # fmt: skip
        if nbytes > cursor.size - begin - offset:
            raise cursor.bad(f"expected {nbytes} bytes of {show(name)} from {begin + offset} on, "
                             f"found a file of {cursor.size}")  # fmt: skip
        entries.append(Entry(name, kind, shape, begin + offset, nbytes))
        end = -(-(offset + nbytes) // alignment) * alignment
    return entries


def parse(read: Read, size: int, path: Path) -> Header:
    """The head of a file of `size` bytes, wherever it is.

    Raises:
        FormatError: it contradicts itself or the format.
    """
    cursor = _Cursor(read, size, path)
    magic, version = cursor.take(4, "GGUF's head"), cursor.number("I", "version")
    if magic != MAGIC:
        raise cursor.bad(f"expected {MAGIC!r}, found {magic!r}")
    if version and not version & 0xFFFF:
        raise cursor.bad("expected a little-endian file, found a big-endian one")
    if version not in (2, 3):
        raise cursor.bad(f"expected version 2 or 3, found {version}")
    n_tensors, n_keys = cursor.number("Q", "count"), cursor.number("Q", "count")
    if n_tensors > min(MAX_TENSORS, cursor.left // 24) or n_keys > min(MAX_KEYS, cursor.left // 13):
        raise cursor.bad(f"expected as many tensors and keys as {size} bytes can hold, at most "
                         f"{MAX_TENSORS} each, found {n_tensors} and {n_keys}")  # fmt: skip
    metadata = _metadata(cursor, n_keys)
    alignment = metadata.get("general.alignment", 32)
    if (
        type(alignment) is not int
        or not 0 < alignment <= MAX_ALIGNMENT
        or alignment.bit_count() > 1
    ):
        raise cursor.bad(f"expected a power of two as general.alignment, at most {MAX_ALIGNMENT}, "
                         f"found {show(alignment)}")  # fmt: skip
    return Header(path, metadata, _entries(cursor, n_tensors, alignment))


def read_header(path: Path) -> Header:
    """The head of a file on disk.

    Raises:
        IoError: it cannot be read.
        FormatError: it contradicts itself or the format.
    """
    with files.regular_file(path) as (stream, size):

        def read(offset: int, count: int) -> bytes:
            stream.seek(offset)
            return stream.read(count)

        return parse(read, size, path)
