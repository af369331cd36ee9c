"""Matrices that MLX has as one: GGUF files of Qwen3-Next have a delta net's projections apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..packing.sources import SourceFiles
from ..spec import DeltaNet, Shape
from . import rows
from .affine import Array
from .rows import Rows, Runs


@dataclass(frozen=True)
class Joined:
    """Rows of several matrices, in one order. As `Rows`, of plain numbers.

    Attributes:
        of: the matrices, all of their rows in order; these are counted on from one to the next.
        runs: those that are meant, in that order.
    """

    of: tuple[Rows, ...]
    runs: Runs
    n_matrices: int = 1
    unit: int = 1

    @cached_property
    def shape(self) -> Shape:
        """Of the whole."""
        return Shape(self.n_rows, self.of[0].shape.columns, "f32", 0, "F32")

    @property
    def n_rows(self) -> int:
        """Rows that are meant."""
        return sum(count for _, count in self.runs)

    def files(self, matrix: int) -> list[int]:
        """As of `Rows`."""
        return sorted({file for each in self.of for file in each.files(matrix)})

    def pieces(self) -> Iterator[tuple[int, int, Runs]]:
        """As of `Rows`."""
        for first, runs in rows.cut(self.runs, self.shape.columns):
            yield 0, first, runs

    def numbers(self, source: SourceFiles, matrix: int, runs: Runs) -> Array:
        """As of `Rows`."""
        return np.concatenate([self._run(source, *run) for run in runs])

    def _run(self, source: SourceFiles, begin: int, count: int) -> Array:
        for each in self.of:
            if begin < each.n_rows:
                return each.numbers(source, 0, ((begin, count),))
            begin -= each.n_rows
        raise AssertionError(f"row {begin} behind the last matrix")


def of_delta_net(net: DeltaNet) -> dict[str, Joined]:
    """By its name the whole of projections that are apart: a key head's rows, then the next one's.

    Empty where they are not apart.
    """
    ratio = net.n_value_heads // net.n_key_heads
    keys, values = net.n_key_heads * net.key_dim, net.n_value_heads * net.value_dim
    of_head = ratio * net.value_dim
    found = {}
    # Where rows of a kind begin, and how many a key head has of them.
    for parts, whole, kinds in (
        ((net.qkv, net.z), "qkvz", ((0, net.key_dim), (keys, net.key_dim), (2 * keys, of_head),
                                    (2 * keys + values, of_head))),
        ((net.b, net.a), "ba", ((0, ratio), (net.n_value_heads, ratio))),
    ):  # fmt: skip
        first, second = (part.weight.name for part in parts)
        if first != second:
            module = first.removesuffix(".weight").rpartition("_")[0]
            runs = tuple((begin + head * count, count)
                         for head in range(net.n_key_heads) for begin, count in kinds)  # fmt: skip
            found[f"{module}_{whole}"] = Joined(tuple(map(rows.of_matrix, parts)), runs)
    return found
