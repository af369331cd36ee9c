"""The bytes of what a conversion writes, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..checkpoint import Checkpoint, fail
from ..packing.sources import SourceFiles
from ..safetensors_header import DTYPE_BYTES, Entry
from . import affine, decode
from .affine import Array, UnfitError
from .plan import Item
from .rows import Rows, Runs


class Piece(NamedTuple):
    """Bytes of a tensor, and where in it they go."""

    tensor: str
    offset: int
    data: Array


def entries(item: Item) -> list[Entry]:
    """The tensors that an item is, in order."""
    if item.codes is None:
        columns = item.rows.shape.columns
        name = f"{item.name}.weight" if item.is_matrix else item.name
        return [_entry(name, item.dtype, (*item.shape, columns) if item.is_matrix else item.shape)]
    columns, (bits, group) = item.rows.shape.columns, (item.codes.bits, item.codes.group)
    return [
        _entry(f"{item.name}.weight", "U32", (*item.shape, columns * bits // 32)),
        _entry(f"{item.name}.scales", item.dtype, (*item.shape, columns // group)),
        _entry(f"{item.name}.biases", item.dtype, (*item.shape, columns // group)),
    ]


def _entry(name: str, dtype: str, shape: tuple[int, ...]) -> Entry:
    nbytes = DTYPE_BYTES[dtype]
    for count in shape:
        nbytes *= count
    return Entry(name, dtype, shape, nbytes)


def work(
    item: Item, checkpoint: Checkpoint, source: SourceFiles
) -> Iterator[Callable[[], list[Piece]]]:
    """What makes the pieces, to be called in any order by any thread.

    Each raises FormatError for numbers that cannot be written, IoError when it cannot read.
    """
    names = [entry.name for entry in entries(item)]
    row_bytes = [_row_bytes(item, entry) for entry in entries(item)]
    n_rows = item.rows.n_rows

    for matrix, first, runs in item.rows.pieces():

        def make(matrix: int = matrix, first: int = first, runs: Runs = runs) -> list[Piece]:
            at = matrix * n_rows + first
            try:
                data = _data(item, source, matrix, runs)
            except UnfitError as error:
                files = dict.fromkeys(checkpoint.files[file] for file in item.rows.files(matrix))
                expert = f" of expert {matrix}" if item.rows.n_matrices > 1 else ""
                raise fail("convert", f"{error} in {item.name}{expert}",
                           ", ".join(map(str, files))) from None  # fmt: skip
            return [Piece(name, at * size, part)
                    for name, size, part in zip(names, row_bytes, data, strict=True)]  # fmt: skip

        yield make


def _row_bytes(item: Item, entry: Entry) -> int:
    rows = item.rows.n_matrices * item.rows.n_rows
    return entry.nbytes // rows if rows else 0


def _data(item: Item, source: SourceFiles, matrix: int, runs: Runs) -> list[Array]:
    """Bytes of each tensor, of some rows."""
    rows, codes = item.rows, item.codes
    if codes and item.as_is and isinstance(rows, Rows):
        stored = rows.stored(source, matrix, runs)
        times = rows.shape.group // codes.group
        of_groups = (np.repeat(decode.numbers(stored[part].reshape(-1), rows.shape.dtype), times)
                     for part in ("scales", "biases"))  # fmt: skip
        return [stored["weight"].reshape(-1), *(affine.encode(each, item.dtype)
                                                for each in of_groups)]  # fmt: skip
    numbers = rows.numbers(source, matrix, runs)
    if codes is None:
        return [affine.encode(numbers, item.dtype)]
    found = affine.quantize(numbers, codes.bits, codes.group)
    return [found.stream, affine.encode(found.scales, item.dtype),
            affine.encode(found.biases, item.dtype)]  # fmt: skip


def narrowed(item: Item, dtype: str, source: SourceFiles) -> Item:
    """The item in a dtype of half the bytes, where that holds all of its numbers exactly.

    GGUF files have F32 where the model's makers had 16 bits, and one vector in F32 makes other
    engines compute everything in it.
    """
    if item.codes is not None or (item.dtype, dtype) not in (("F32", "BF16"), ("F32", "F16")):
        return item
    for matrix, _, runs in item.rows.pieces():
        numbers = item.rows.numbers(source, matrix, runs)
        try:
            if not np.array_equal(decode.numbers(affine.encode(numbers, dtype), dtype),
                                  numbers.reshape(-1)):  # fmt: skip
                return item
        except UnfitError:
            return item
    return item._replace(dtype=dtype)
