"""The packed form of a model's experts: what `moeflux pack` writes and `load` reads in place.

A packed folder is an ordinary checkpoint (config, tokenizer, index, safetensors files) in which the
experts of a layer lie in one file of their own, one aligned record an expert:

    0                8 bytes, length of the JSON; the JSON, padded with spaces
    data = n*16384   record of expert 0     record_bytes, a multiple of 16384
    data + 1*record  record of expert 1     weight, scales, biases of gate, up, down, each from a
    ...                                     multiple of 64 on; zeros between and behind them

To safetensors it is one U8 tensor `experts` [n_experts, record_bytes]. `__metadata__` says more:
    format        "moeflux-pack"
    version       "1"
    layout        JSON list of what a record holds: name, dtype, shape, offset in the record; of a
                  GGUF file's blocks their format, too
    piece_bytes   how many bytes of the data each checksum covers: a record
    crc32         8 hex digits a piece, in order
A record is laid out as a slot in memory, so that one direct read brings an expert. The file with
the dense tensors has format, version, piece_bytes and crc32 too, and no layout; where there are
blocks, `blocks` is a JSON object of their formats by tensor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import formats
from .arguments import show
from .safetensors_header import DTYPE_BYTES, Entry, Tensor, encode, fail

FORMAT, VERSION = "moeflux-pack", "1"
TENSOR = "experts"
RECORD_ALIGNMENT = 16384  # store::kSlotAlignment: whole pages and direct reads on every machine
PART_ALIGNMENT = 64  # store::kPartAlignment


@dataclass(frozen=True)
class Part:
    """A tensor of an expert and its place in the record; `blocks` as in `Tensor`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    blocks: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes in one record."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below value."""
    return -(-value // multiple) * multiple


def record_bytes(parts: Sequence[Part]) -> int:
    """Size of the record that holds the parts."""
    return round_up(max(part.offset + part.nbytes for part in parts), RECORD_ALIGNMENT)


def layer_header(parts: Sequence[Part], n_experts: int, checksums: str) -> bytes:
    """Header of a layer's file; its length does not depend on the checksums."""
    size = record_bytes(parts)
    layout = [
        {"name": p.name, "dtype": p.dtype, "shape": list(p.shape), "offset": p.offset}
        | ({"blocks": p.blocks} if p.blocks else {})
        for p in parts
    ]
    metadata = {"format": FORMAT, "version": VERSION,
                "layout": json.dumps(layout, separators=(",", ":")),
                "piece_bytes": str(size), "crc32": checksums}  # fmt: skip
    entry = Entry(TENSOR, "U8", (n_experts, size), n_experts * size)
    return encode([entry], metadata, RECORD_ALIGNMENT)


def dense_header(
    entries: Sequence[Entry], blocks: dict[str, str], piece_bytes: int, checksums: str
) -> bytes:
    """Header of the file of dense tensors, some of which are blocks of a format."""
    metadata = {"format": FORMAT, "version": VERSION, "piece_bytes": str(piece_bytes),
                "crc32": checksums}  # fmt: skip
    if blocks:
        metadata["blocks"] = json.dumps(blocks, separators=(",", ":"))
    return encode(entries, metadata, RECORD_ALIGNMENT)


def is_packed(metadata: dict[str, str]) -> bool:
    """Whether a file's metadata are those of a packed file."""
    return metadata.get("format") == FORMAT


def expand(stored: dict[str, Tensor], metadata: dict[str, str], path: Path) -> dict[str, Tensor]:
    """The tensors that a file means: of a packed layer the stacks its records are made of.

    Raises:
        FormatError: a layout that contradicts itself or the file.
    """
    if not is_packed(metadata):
        return stored
    if metadata.get("version") != VERSION:
        raise fail("packed", f"expected version {VERSION} of the packed form, found "
                   f"{metadata.get('version')!r}; write it anew with this version's `moeflux pack`",
                   path)  # fmt: skip
    if "layout" not in metadata:
        return _with_blocks(stored, metadata.get("blocks", "{}"), path)
    tensor = stored.get(TENSOR)
    if len(stored) != 1 or tensor is None or tensor.dtype != "U8" or len(tensor.shape) != 2:
        raise fail("packed", f"expected one U8 tensor {TENSOR!r} [experts, record_bytes], found "
                   f"{[(t.name, t.dtype, list(t.shape)) for t in stored.values()][:3]}",
                   path)  # fmt: skip
    n_experts, record = tensor.shape
    if n_experts == 0 or record == 0 or record % RECORD_ALIGNMENT:
        raise fail("packed", f"expected records of a multiple of {RECORD_ALIGNMENT} bytes, found "
                   f"{n_experts} of {record}", path)  # fmt: skip
    if tensor.offset % RECORD_ALIGNMENT:
        raise fail("packed", f"expected data at a multiple of {RECORD_ALIGNMENT}, found offset "
                   f"{tensor.offset}", path)  # fmt: skip
    parts = _parse_layout(metadata["layout"], record, path)
    return {
        part.name: Tensor(part.name, tensor.file, tensor.offset + part.offset,
                          n_experts * part.nbytes, part.dtype, (n_experts, *part.shape), record,
                          part.blocks)
        for part in parts
    }  # fmt: skip


def _with_blocks(stored: dict[str, Tensor], text: str, path: Path) -> dict[str, Tensor]:
    try:
        blocks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail("packed", f"expected blocks in JSON, found: {error}", path) from None
    named: Any = blocks.items() if isinstance(blocks, dict) else [("", None)]
    for name, form in named:
        if name not in stored or not _are_blocks(form, stored[name].dtype):
            raise fail("packed", f"expected formats of blocks by U8 tensors, found "
                       f"{show(name)}: {show(form)}", path)  # fmt: skip
        stored[name] = replace(stored[name], blocks=form)
    return stored


def _are_blocks(form: Any, dtype: str) -> bool:
    return isinstance(form, str) and form in formats.BLOCKS and dtype == "U8"


def _parse_layout(text: str, record: int, path: Path) -> list[Part]:
    try:
        layout = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fail("packed", f"expected a layout in JSON, found: {error}", path) from None
    if not isinstance(layout, list) or not layout:
        raise fail("packed", f"expected a list of parts as layout, found {str(layout)[:80]}", path)
    parts = [_parse_part(entry, path) for entry in layout]
    end, previous = 0, "the record's begin"
    for part in sorted(parts, key=lambda part: part.offset):
        if part.offset % PART_ALIGNMENT or not end <= part.offset <= record - part.nbytes:
            raise fail("packed", f"expected {part.name!r} ({part.nbytes} bytes) behind {previous} "
                       f"at a multiple of {PART_ALIGNMENT} in {end}..{record}, found offset "
                       f"{part.offset}", path)  # fmt: skip
        end, previous = part.offset + part.nbytes, repr(part.name)
    if len({part.name for part in parts}) != len(parts):
        raise fail("packed", "expected every part of a record once, found one twice", path)
    return parts


def _parse_part(entry: Any, path: Path) -> Part:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    numbers = [*shape, entry.get("offset")] if isinstance(shape, list) and len(shape) < 8 else None
    if (
        numbers is None
        or not all(type(number) is int and 0 <= number < 1 << 40 for number in numbers)
        or not isinstance(entry.get("name"), str)
        or entry.get("dtype") not in DTYPE_BYTES
        or ("blocks" in entry and not _are_blocks(entry["blocks"], entry["dtype"]))
    ):
        raise fail("packed", f"expected name, dtype, shape and offset of a part, found "
                   f"{str(entry)[:120]}", path)  # fmt: skip
    return Part(entry["name"], entry["dtype"], tuple(entry["shape"]), entry["offset"],
                entry.get("blocks", ""))  # fmt: skip


def checksums(metadata: dict[str, str], data_bytes: int, path: Path) -> tuple[int, list[int]]:
    """(piece_bytes, crc32 of each piece) of a packed file with so many bytes of data.

    Raises:
        FormatError: they are not there or not as many as there are pieces.
    """
    size, digits = metadata.get("piece_bytes", ""), metadata.get("crc32", "")
    if not re.fullmatch(r"[1-9]\d{0,11}", size) or int(size) % RECORD_ALIGNMENT:
        raise fail("packed", f"expected piece_bytes, a multiple of {RECORD_ALIGNMENT}, found "
                   f"{size[:20]!r}", path)  # fmt: skip
    n_pieces = -(-data_bytes // int(size))
    if not re.fullmatch(r"[0-9a-f]*", digits) or len(digits) != 8 * n_pieces:
        raise fail("packed", f"expected {n_pieces} checksums of 8 hex digits, found "
                   f"{len(digits)} characters", path)  # fmt: skip
    return int(size), [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
