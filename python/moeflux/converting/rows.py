"""Rows of a checkpoint's matrices as numbers, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..formats import Stored
from ..packing.sources import SourceFiles
from ..safetensors_header import Tensor
from ..spec import ExpertMatrix, Matrix, Range, Shape, Slices, Vector
from . import decode
from .affine import Array

PIECE = 1 << 18  # numbers that are worked on at a time; a row at least
Runs = tuple[tuple[int, int], ...]  # (begin, count) of rows


@dataclass(frozen=True)
class Rows:
    """Matrices of one shape, one behind the other.

    Attributes:
        shape: of each as it is stored, in units of rows.
        parts: where they lie, by the names of their tensors.
        runs: the units that are meant, in that order.
        unit: rows that lie beside each other, of which one is meant.
        of_unit: which one.
        add: is added to each number.
        made: the numbers, where they are not those of a file.
    """

    shape: Shape
    parts: dict[str, Slices]
    runs: Runs
    unit: int = 1
    of_unit: int = 0
    add: float = 0.0
    made: Any = field(default=None, compare=False)

    @property
    def n_rows(self) -> int:
        """Rows of a matrix that are meant."""
        return sum(count for _, count in self.runs)

    @property
    def n_matrices(self) -> int:
        """How many there are."""
        return len(self.parts["weight"].files) if self.parts else 1

    def files(self, matrix: int) -> list[int]:
        """The numbers of the files that a matrix lies in."""
        return sorted({int(part.files[matrix]) for part in self.parts.values()})

    def pieces(self) -> Iterator[tuple[int, int, Runs]]:
        """Cuts all rows: number of the matrix, of the piece's first row in it, and its units."""
        for matrix in range(self.n_matrices):
            for first, runs in cut(self.runs, self.shape.columns * self.unit):
                yield matrix, first, runs

    def stored(self, source: SourceFiles, matrix: int, runs: Runs) -> dict[str, Array]:
        """Bytes (rows, of a row) of each tensor of a matrix; what is for several once for each."""
        found = {}
        sizes = decode.row_bytes(self.shape)
        for name, of in self.shape.tensors.items():
            files, offsets, _ = self.parts[name]
            nbytes, pieces = sizes[name], []
            for begin, count in runs:
                first, last = begin * self.unit, (begin + count) * self.unit - 1
                n = last // of.rows - first // of.rows + 1
                buffer = np.empty((n, nbytes), np.uint8)
                at = int(offsets[matrix]) + first // of.rows * nbytes
                source.read(Range(int(files[matrix]), at, n * nbytes), buffer.data.cast("B"))
                if of.rows > 1:
                    buffer = _of_each(buffer, of, np.arange(first, last + 1))
                pieces.append(buffer.reshape(count, self.unit, nbytes)[:, self.of_unit])
            found[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return found

    def numbers(self, source: SourceFiles, matrix: int, runs: Runs) -> Array:
        """The numbers (rows, columns) of a matrix, float32."""
        if self.made is not None:
            (begin, count), *_ = runs
            found: Array = self.made[begin : begin + count]
        else:
            stored = self.stored(source, matrix, runs)
            contiguous = {name: np.ascontiguousarray(part) for name, part in stored.items()}
            found = decode.rows(self.shape, contiguous)
        if self.add:
            found = found + np.float32(self.add)
        return found


def _of_each(stored: Array, of: Stored, rows: Array) -> Array:
    """What is for several rows each, from that of the first row on, once for each row."""
    found: Array = stored[rows // of.rows - rows[0] // of.rows]
    if of.is_packed:
        shifts = rows % of.rows * (32 // of.rows)
        found = (found.view("<u4") >> shifts.astype(np.uint32)[:, None]).view(np.uint8)
    return found


def cut(runs: Runs, columns: int) -> Iterator[tuple[int, Runs]]:
    """Pieces of rows of so many numbers: the place of the first among all, and its runs."""
    most = max(1, PIECE // columns)
    first = row = 0
    taken: list[tuple[int, int]] = []
    for begin, count in runs:
        while count:
            n = min(count, first + most - row)
            taken.append((begin, n))
            begin, count, row = begin + n, count - n, row + n
            if row == first + most:
                yield first, tuple(taken)
                first, taken = row, []
    if taken:
        yield first, tuple(taken)


def of_matrix(matrix: Matrix) -> Rows:
    """A resident matrix, all of what is stored."""
    tensors = {part: getattr(matrix, part) for part in matrix.tensors}
    runs = matrix.weight.rows or ((0, matrix.out),)
    return Rows(_shape(matrix), {part: _one(tensor) for part, tensor in tensors.items()}, runs)


def of_experts(matrix: ExpertMatrix, unit: int = 1, of_unit: int = 0) -> Rows:
    """A matrix of all experts; `unit` rows lie in turns, of which one is meant."""
    parts = {part: getattr(matrix, part) for part in matrix.tensors}
    return Rows(_shape(matrix), parts, ((0, matrix.out // unit),), unit, of_unit)


def of_vector(vector: Vector, unit: int = 1, of_unit: int = 0) -> Rows:
    """A vector, as rows of one number."""
    count = vector.count // unit
    if vector.numbers is not None:
        made = np.ascontiguousarray(vector.numbers, np.float32).reshape(-1, unit)
        shape = Shape(count, 1, "f32", 0, "F32")
        return Rows(shape, {}, ((0, count),), 1, 0, vector.add, made[:, of_unit, None])
    if vector.matrix is not None:
        return of_matrix(vector.matrix)
    return Rows(_plain(vector.tensor, vector.count), {"weight": _one(vector.tensor)},
                ((0, count),), unit, of_unit, vector.add)  # fmt: skip


def of_tensor(tensor: Tensor) -> Rows:
    """A tensor of plain numbers, as rows of one."""
    count = math.prod(tensor.shape)
    return Rows(_plain(tensor, count), {"weight": _one(tensor)}, ((0, count),))


def _plain(tensor: Tensor, count: int) -> Shape:
    return Shape(count, 1, tensor.dtype.lower(), 0, tensor.dtype)


def _shape(matrix: Matrix | ExpertMatrix) -> Shape:
    return Shape(matrix.out, matrix.columns, matrix.format, matrix.group, matrix.dtype)


def _one(tensor: Tensor) -> Slices:
    return Slices(np.array([tensor.file]), np.array([tensor.offset], np.uint64), tensor.nbytes)


def memory_bytes(columns: Iterable[int]) -> int:
    """About what a thread holds at most of a piece of rows of any of these widths."""
    return 32 * max(PIECE, *columns)
