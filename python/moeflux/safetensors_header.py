"""Writes headers of safetensors files. Reading and checking them is checkpoint.py's.

8 bytes       length n of the JSON, little-endian
n bytes       {"__metadata__": {...}, name: {"dtype", "shape", "data_offsets": [begin, end]}}
the rest      tensors, without holes, in the order of their offsets
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


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
