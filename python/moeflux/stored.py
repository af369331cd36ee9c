"""What the parts of a model are stored as: vectors and matrices, and where they lie in files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import formats
from .safetensors_header import Tensor

Rows = list[tuple[int, int]]  # (begin, count) of ranges of rows


class Range(NamedTuple):
    """Bytes of file number `file`."""

    file: int
    offset: int
    nbytes: int


class Slices(NamedTuple):
    """A range for each expert, all of `nbytes`; files and offsets are arrays (n_experts,)."""

    files: Any
    offsets: Any
    nbytes: int


@dataclass(frozen=True)
class Vector:
    """`count` numbers, kept as f32, times `mul` plus `add`: `numbers` (numpy), else the stored.

    Those of a `matrix` of 8-bit floats are times its scales. Those of `stacks` are
    slice 0 of every stack, then slice 1 of every stack, ...; each has `slices`.
    """

    tensor: Tensor
    count: int
    add: float
    numbers: Any = field(default=None, compare=False)
    mul: float = 1.0
    matrix: Matrix | None = None
    stacks: list[Stack] | None = None
    slices: int | None = None


@dataclass(frozen=True)
class Shape:
    """Size and format of a stored matrix.

    Attributes:
        format: a row's name in `formats.TABLE`.
        group: columns that a scale covers; 0 where there are none.
        dtype: of its floats.
    """

    out: int
    columns: int
    format: str
    group: int
    dtype: str

    @property
    def tensors(self) -> dict[str, formats.Stored]:
        """The tensors that it consists of, by name."""
        return formats.tensors(self.format, self.columns, self.group, self.dtype)


@dataclass(frozen=True)
class Matrix(Shape):
    """A resident matrix; `rows` are those of the stored one that it has, None for all."""

    weight: Tensor
    scales: Tensor | None = None
    biases: Tensor | None = None
    zeros: Tensor | None = None
    supers: Tensor | None = None
    bias: Tensor | None = None
    rows: Rows | None = None


@dataclass(frozen=True)
class Stack:
    """A matrix of which a vector has slices of rows; turned: the rows of each are columns there."""

    matrix: Matrix
    turned: bool = False


@dataclass(frozen=True)
class ExpertMatrix(Shape):
    """A matrix of each expert of a layer; `module` names their tensors in a packed folder."""

    module: str
    weight: Slices
    scales: Slices | None = None
    biases: Slices | None = None
    zeros: Slices | None = None
    supers: Slices | None = None
