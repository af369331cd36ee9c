"""Weight formats by name, as the core's table has them (csrc/base/format.cpp)."""

from __future__ import annotations

from typing import NamedTuple

from . import _core


class Format(NamedTuple):
    """A row of the table.

    Attributes:
        bits: of a code; 0: weights are numbers.
        groups: columns that a scale may cover.
        is_blocks: a file has one tensor of blocks, which readers turn into codes and scales.
        are_floats: weights are floats. Their scales may cover less at the edges of a matrix.
    """

    bits: int
    groups: tuple[int, ...]
    is_blocks: bool
    are_floats: bool


class Stored(NamedTuple):
    """A tensor that a matrix consists of: its dtype, elements a row, rows that each is for."""

    dtype: str
    per_row: int
    rows: int

    @property
    def is_packed(self) -> bool:
        """Whether an element is a word of all its rows' integers, the first in the lowest bits."""
        return self.rows > 1 and self.dtype == "U32"

    def shape(self, out: int) -> tuple[int, int]:
        """Its shape in a matrix of so many rows."""
        return -(-out // self.rows), self.per_row


class Mode(NamedTuple):
    """What a mode has: bits of a code, columns that a scale covers, and the format's name."""

    bits: int
    group: int
    format: str


TABLE = {name: Format(bits, tuple(groups), blocks, floats)
         for name, bits, groups, blocks, floats in _core.formats()}  # fmt: skip
# Safetensors' names of plain numbers; bits and groups of MLX's affine codes.
PLAIN = tuple(name.upper() for name, row in TABLE.items() if not row.bits)
BITS = tuple(row.bits for name, row in TABLE.items() if name.startswith("affine"))
GROUPS = TABLE["affine4"].groups
# GGUF's formats by the names of its types, in small letters.
BLOCKS = tuple(name for name, row in TABLE.items() if row.is_blocks)


# MLX's modes of quantisation that are no affine codes.
MODES = {"mxfp4": Mode(4, 32, "mxfp4_planes"), "mxfp8": Mode(8, 32, "mxfp8"),
         "nvfp4": Mode(4, 16, "nvfp4_planes")}  # fmt: skip
NVFP4 = Mode(4, 16, "nvfp4_tensor")  # with a number that multiplies all scales of a matrix
# Those whose scales are bytes.
BYTE_SCALES = (*(mode.format for mode in MODES.values()), NVFP4.format)


def affine(bits: int) -> str:
    """The format of MLX's affine codes of so many bits."""
    return f"affine{bits}"


def of_blocks(name: str) -> tuple[str, int, str]:
    """Format, columns a scale and dtype of its numbers that a matrix of blocks has."""
    return name, TABLE[name].groups[0], "F16"


def tensors(name: str, columns: int, group: int, dtype: str) -> dict[str, Stored]:
    """The tensors that a matrix consists of, by name."""
    return {part: Stored(of, per_row, rows)
            for part, of, per_row, rows in _core.tensors(name, columns, group, dtype)}  # fmt: skip
