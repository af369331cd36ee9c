"""Weight formats by name, as the core's table has them (csrc/base/format.cpp)."""

from __future__ import annotations

from typing import NamedTuple

from . import _core


class Format(NamedTuple):
    """A row: bits of a code (0: weights are numbers), columns that a scale may cover.

    `is_blocks`: a file has one tensor of blocks, which readers turn into codes and scales.
    """

    bits: int
    groups: tuple[int, ...]
    is_blocks: bool


class Mode(NamedTuple):
    """What a mode has: bits of a code, columns that a scale covers, and the format's name."""

    bits: int
    group: int
    format: str


TABLE = {name: Format(bits, tuple(groups), blocks)
         for name, bits, groups, blocks in _core.formats()}  # fmt: skip
# Safetensors' names of plain numbers; bits and groups of MLX's affine codes.
PLAIN = tuple(name.upper() for name, row in TABLE.items() if not row.bits)
BITS = tuple(row.bits for name, row in TABLE.items() if name.startswith("affine"))
GROUPS = TABLE["affine4"].groups
# GGUF's formats by the names of its types, in small letters.
BLOCKS = tuple(name for name, row in TABLE.items() if row.is_blocks)


# MLX's modes of quantisation that are no affine codes.
MODES = {"mxfp4": Mode(4, 32, "mxfp4_planes")}
# Those whose scales are exponents: U8.
EXPONENTS = tuple(mode.format for mode in MODES.values())


def affine(bits: int) -> str:
    """The format of MLX's affine codes of so many bits."""
    return f"affine{bits}"


def of_blocks(name: str) -> tuple[str, int, str]:
    """Format, columns a scale and dtype of its numbers that a matrix of blocks has."""
    return name, TABLE[name].groups[0], "F16"


def tensors(name: str, columns: int, group: int, dtype: str) -> dict[str, tuple[str, int]]:
    """The tensors that a matrix consists of: dtype and elements a row, by name."""
    return {part: (of, count) for part, of, count in _core.tensors(name, columns, group, dtype)}
