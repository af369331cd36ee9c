"""The dense tensors of a packed folder: the bytes of each, from the source or of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..safetensors_header import Entry, Tensor
from ..spec import Range
from .sources import SourceFiles


class Written(NamedTuple):
    """A tensor and its bytes: ranges of the source, or `own` ones."""

    entry: Entry
    ranges: list[Range]
    own: bytes


def written(tensor: Tensor) -> Written:
    """A tensor as it is to be: what it stands for, where that is not what is stored."""
    if tensor.numbers is not None:
        numbers = np.ascontiguousarray(tensor.numbers, "<f4").tobytes()
        return Written(Entry(tensor.name, "F32", tensor.shape, len(numbers)), [], numbers)
    shape, ranges = tensor.shape, [Range(tensor.file, tensor.offset, tensor.nbytes)]
    if tensor.rows is not None:
        size = tensor.nbytes // shape[0]
        ranges = [Range(tensor.file, tensor.offset + begin * size, count * size)
                  for begin, count in tensor.rows]  # fmt: skip
        shape = (sum(count for _, count in tensor.rows), *shape[1:])
    nbytes = sum(place.nbytes for place in ranges)
    return Written(Entry(tensor.name, tensor.dtype, shape, nbytes), ranges, b"")


def pieces(
    tensors: Sequence[Written], files: SourceFiles, piece_bytes: int
) -> Iterator[memoryview]:
    """All bytes one after the other, in pieces of that size; a piece is gone with the next."""
    buffer = memoryview(bytearray(piece_bytes))
    filled = 0
    sources: list[Range | bytes] = []
    for tensor in tensors:
        sources += [*tensor.ranges, tensor.own]
    for source in sources:
        total = source.nbytes if isinstance(source, Range) else len(source)
        done = 0
        while done < total:
            n = min(total - done, len(buffer) - filled)
            if isinstance(source, Range):
                place = Range(source.file, source.offset + done, n)
                files.read(place, buffer[filled : filled + n])
            else:
                buffer[filled : filled + n] = source[done : done + n]
            done, filled = done + n, filled + n
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]
