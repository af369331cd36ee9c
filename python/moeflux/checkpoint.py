"""Reads a checkpoint folder: config.json and safetensors headers. Knows no model family.

Everything here treats the files as hostile: sizes are checked before anything is allocated, every
tensor's range against its shape, its neighbours and the real file size. No weights are read.
Source of the format: the safetensors specification.
"""

from __future__ import annotations

import json
import math
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FormatError, IoError

MAX_JSON_BYTES = 100_000_000  # safetensors' own limit for a header
MAX_SMALL_JSON_BYTES = 16_000_000
INDEX_NAME = "model.safetensors.index.json"

_DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. `offset` counts bytes from the start of file number `file`."""

    name: str
    file: int
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A folder's config, data files and tensor table."""

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, Tensor]

    def where(self, tensor: Tensor) -> str:
        """Names tensor and file for a message."""
        return f"tensor {tensor.name} in {self.files[tensor.file]}"


def fail(tag: str, what: str, file: Path | str) -> FormatError:
    """Builds the error in the one form that all messages have."""
    return FormatError(f"[{tag}] {what} ({file})")


def read_json(path: Path, limit_bytes: int = MAX_SMALL_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON object from a regular file of bounded size.

    Raises:
        IoError: it cannot be read.
        FormatError: too long, no JSON, or no object.
    """
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise IoError(f"[checkpoint] expected a regular file ({path})")
        if info.st_size > limit_bytes:
            raise fail("checkpoint", f"expected at most {limit_bytes} bytes of JSON, "
                       f"found {info.st_size}", path)  # fmt: skip
        text = path.read_bytes()
    except OSError as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[checkpoint] cannot read: {error.strerror} ({path})") from error
    return _parse_object(text, path, "JSON")


def _parse_object(text: bytes, path: Path, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail("checkpoint", f"expected {what}, found: {error}", path) from None
    if not isinstance(value, dict):
        raise fail("checkpoint", f"expected a JSON object, found {type(value).__name__}", path)
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def read_header(path: Path, file: int) -> dict[str, Tensor]:
    """Reads one safetensors header: a table of tensors with file number `file`."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise IoError(f"[checkpoint] expected a regular file ({path})")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise fail("checkpoint", f"expected a safetensors header, found {size} bytes", path)
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > min(MAX_JSON_BYTES, size - 8):
                raise fail("checkpoint", f"expected a header of at most "
                           f"{min(MAX_JSON_BYTES, size - 8)} bytes, found length {header_bytes}",
                           path)  # fmt: skip
            text = stream.read(header_bytes)
    except OSError as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[checkpoint] cannot read: {error.strerror} ({path})") from error

    begin, end = 8 + header_bytes, size
    table: dict[str, Tensor] = {}
    for name, entry in _parse_object(text, path, "a safetensors header").items():
        if name != "__metadata__":
            table[name] = _parse_entry(name, entry, begin, end, path, file)
    _check_layout(table, begin, end, path)
    return table


def _parse_entry(name: str, entry: Any, begin: int, end: int, path: Path, file: int) -> Tensor:
    def bad(what: str) -> FormatError:
        return fail("checkpoint", f"{what} for tensor {name!r}", path)

    if not isinstance(entry, dict):
        raise bad("expected an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise bad(f"expected a known dtype, found {dtype!r}")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_count, shape)):
        raise bad(f"expected a shape, found {str(shape)[:80]}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise bad(f"expected two data_offsets, found {str(offsets)[:80]}")
    nbytes = math.prod(shape) * _DTYPE_BYTES[dtype]
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


def _shard_names(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    index = folder / INDEX_NAME
    if not index.exists():
        if (folder / "model.safetensors").exists():
            return ["model.safetensors"], None
        raise fail("checkpoint", f"expected model.safetensors or {INDEX_NAME}, found neither",
                   folder)  # fmt: skip
    weight_map = read_json(index, MAX_JSON_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise fail("checkpoint", "expected a weight_map object", index)
    for name in weight_map.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or name in ("", ".", ".."):
            raise fail("checkpoint", f"expected plain file names, found {name!r}", index)
        if not name.endswith(".safetensors"):
            raise fail("checkpoint", f"expected .safetensors files, found {name!r}", index)
    return sorted(set(weight_map.values())), weight_map


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads config and headers of a checkpoint folder.

    Raises:
        IoError: a file is missing or unreadable.
        FormatError: a file contradicts itself or another.
    """
    config = read_json(folder / "config.json")
    names, weight_map = _shard_names(folder)
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        path = folder / name
        if not path.exists():
            raise IoError(f"[checkpoint] a shard named by the index is missing ({path})")
        for tensor in read_header(path, number).values():
            if tensor.name in tensors:
                other = folder / names[tensors[tensor.name].file]
                raise fail("checkpoint", f"tensor {tensor.name!r} is also in {other}", path)
            if weight_map is not None and weight_map.get(tensor.name) != name:
                raise fail("checkpoint", f"the index expects {tensor.name!r} in "
                           f"{weight_map.get(tensor.name)!r}, found it here", path)  # fmt: skip
            tensors[tensor.name] = tensor
    missing = [name for name in (weight_map or {}) if name not in tensors]
    if missing:
        raise fail("checkpoint", f"expected tensor {missing[0]!r} (and {len(missing) - 1} more)",
                   folder / INDEX_NAME)  # fmt: skip
    return Checkpoint(folder, config, tuple(folder / name for name in names), tensors)
