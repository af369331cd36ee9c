"""Headers of safetensors files, read and written. Reading treats them as hostile.

A file is 8 bytes (length n of the JSON, little-endian), n bytes of JSON
`{"__metadata__": {...}, name: {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}}`, then
the tensors without holes, in the order of their offsets, which count from behind the JSON.
Every tensor's range is checked against its shape, its neighbours and the real file size.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import files
from .errors import FormatError

MAX_JSON_BYTES = 100_000_000  # safetensors' own limit for a header

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. `offset` counts bytes from the start of file number `file`.

    A stack of experts in a packed file is in slices: `stride` bytes from one to the next. 0: the
    tensor lies in one piece. One of a GGUF file's `blocks` (a row's name in `formats.TABLE`) has
    dtype U8, and its shape counts bytes. Where a matrix or vector stands for something else than
    what is stored: `rows` (begin, count) of a matrix, in that order; `numbers` (numpy) of a vector.
    """

    name: str
    file: int
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    stride: int = 0
    blocks: str = ""
    rows: tuple[tuple[int, int], ...] | None = None
    numbers: Any = field(default=None, compare=False)


def fail(tag: str, what: str, file: Path | str) -> FormatError:
    """Builds the error in the one form that all messages have."""
    return FormatError(f"[{tag}] {what} ({file})")


def parse_object(text: bytes, path: Path, what: str) -> dict[str, Any]:
    """A JSON object, or a FormatError that says `what` was expected."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail("checkpoint", f"expected {what}, found: {error}", path) from None
    if not isinstance(value, dict):
        raise fail("checkpoint", f"expected a JSON object, found {type(value).__name__}", path)
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def read_header(path: Path, file: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads one safetensors header.

    Returns:
        A table of tensors with file number `file`, and the file's `__metadata__`.
    """
    with files.regular_file(path) as (stream, size):
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise fail("checkpoint", f"expected a safetensors header, found {size} bytes", path)
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > min(MAX_JSON_BYTES, size - 8):
            raise fail("checkpoint", f"expected a header of at most "
                       f"{min(MAX_JSON_BYTES, size - 8)} bytes, found length {header_bytes}",
                       path)  # fmt: skip
        text = stream.read(header_bytes)
    header = parse_object(text, path, "a safetensors header")
    return parse_header(header, 8 + header_bytes, size, path, file)


def parse_header(
    header: dict[str, Any], begin: int, end: int, path: Path, file: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Checks a header's JSON against a file whose data are bytes begin..end.

    Returns:
        As `read_header`.
    """
    table: dict[str, Tensor] = {}
    notes = header.pop("__metadata__", None)
    metadata = {
        key: value
        for key, value in (notes.items() if isinstance(notes, dict) else ())
        if isinstance(value, str)
    }
    for name, entry in header.items():
        table[name] = _parse_entry(name, entry, begin, end, path, file)
    _check_layout(table, begin, end, path)
    return table, metadata


def _parse_entry(name: str, entry: Any, begin: int, end: int, path: Path, file: int) -> Tensor:
    def bad(what: str) -> FormatError:
        return fail("checkpoint", f"{what} for tensor {name!r}", path)

    if not isinstance(entry, dict):
        raise bad("expected an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise bad(f"expected a known dtype, found {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise bad(f"expected a shape, found {str(shape)[:80]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise bad(f"expected two data_offsets, found {str(offsets)[:80]}")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise bad(f"expected {nbytes} bytes for {dtype} {shape}, found data_offsets {offsets}")
    if begin + offsets[1] > end:
        raise bad(f"expected data to end within the file's {end} bytes, "
                  f"found end {begin + offsets[1]}")  # fmt: skip
    return Tensor(name, file, begin + offsets[0], nbytes, dtype, tuple(shape))


def _check_layout(table: dict[str, Tensor], begin: int, end: int, path: Path) -> None:
    position, previous = begin, "the header"
    for tensor in sorted(table.values(), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset < position:
            raise fail("checkpoint", f"tensors overlap: expected {tensor.name!r} behind "
                       f"{previous!r} at {position}, found offset {tensor.offset}",
                       path)  # fmt: skip
        if tensor.offset > position:
            raise fail("checkpoint", f"hole of {tensor.offset - position} bytes before "
                       f"{tensor.name!r}: expected offset {position}, found {tensor.offset}",
                       path)  # fmt: skip
        position, previous = tensor.offset + tensor.nbytes, tensor.name
    if position != end:
        raise fail("checkpoint", f"expected a file of {position} bytes, found {end}", path)


@dataclass(frozen=True)
class Entry:
    """One tensor of a file to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def encode(entries: Iterable[Entry], metadata: dict[str, str], alignment: int = 1) -> bytes:
    """Length and JSON of a file that holds `entries` one after the other.

    Args:
        entries: in the order of their data.
        metadata: strings only, as the format has it.
        alignment: the header is padded with spaces until data begin at a multiple of it.
    """
    table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for entry in entries:
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    return len(text).to_bytes(8, "little") + text
