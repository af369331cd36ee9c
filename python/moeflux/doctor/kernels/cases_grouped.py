"""Dispatches of many rows of several routed experts: tiles of sorted rows, each of one expert."""

from __future__ import annotations

import numpy as np

from ...formats import GROUPS
from .case import Array, Build, Case, Family, Generator, Out, Shape, floats
from .cases_activation import NUMBERS, activated, constants, drawn
from .cases_experts import Biases, Slots
from .cases_linear import matrices

MOST = 64  # rows of a tile
THREADS = 128
UNIT = 16  # bytes: codes begin at a multiple of it

# (K experts, out_dim, in_dim, group size, rows of an expert at most)
SHAPES = [(1, 1, 32, 32, 1), (3, 65, 192, 64, 70), (2, 129, 64, 32, 33), (5, 31, 96, 96, 9),
          (9, 8, 128, 128, 17), (2, 130, 1024, 64, 64), (4, 257, 64, 64, 5)]  # fmt: skip


def draw(rng: Generator) -> Shape:
    group = int(rng.choice(GROUPS))
    n, out_dim = int(rng.integers(1, 7)), int(rng.integers(1, 140))
    return n, out_dim, group * int(rng.integers(1, 320 // group)), group, int(rng.integers(1, 71))


class Tiles:
    """Sorted rows of K experts, cut into tiles; some of the list are not legal and compute nothing.

    `expert` of each row, `live`: rows that some tile computes; `owners`: the expert of each tile.
    """

    def __init__(self, rng: Generator, slots: Slots, most: int):
        counts = rng.integers(0, most + 1, len(slots.entries))
        counts[int(rng.integers(0, len(counts)))] = most
        self.expert = np.repeat(np.arange(len(counts)), counts)
        self.n = len(self.expert)
        self.live = slots.present[self.expert]
        self.list: list[tuple[int, int, int]] = []
        self.owners: list[int] = []
        for k, end in enumerate(np.cumsum(counts)):
            first = int(end - counts[k])
            while first < end:
                count = int(rng.integers(1, min(MOST, end - first) + 1))
                self.list.append((int(slots.entries[k]), first, count))
                self.owners.append(k)
                first += count
        entry = int(slots.entries[0])
        for wrong in [
            (entry, 0, MOST + 1),
            (entry, self.n, 1),
            (entry, 0xFFFFFFFF, 2),
            (entry, 0, 0),
        ]:
            at = int(rng.integers(0, len(self.list) + 1))
            self.list.insert(at, wrong)
            self.owners.insert(at, 0)

    @property
    def array(self) -> Array:
        return np.array(self.list, np.uint32)


def _times(slots: Slots, tiles: Tiles, which: int, x: Array) -> tuple[Array, Array]:
    """Products of each row with matrix `which` of its expert, and the magnitudes added up."""
    out = np.zeros((2, tiles.n, slots.matrices[0][which].values.shape[0]))
    for k, expert in enumerate(slots.matrices):
        mine = tiles.expert == k
        out[0, mine] = x[mine].astype(np.float64) @ expert[which].values.T
        out[1, mine] = abs(x[mine].astype(np.float64)) @ expert[which].sizes.T
    return out[0], out[1]


def gate_up(dtype: str) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        _, out_dim, in_dim, group, most = shape
        form = drawn(rng)
        slots = Slots(rng, shape[:4], 2, dtype, UNIT)
        tiles = Tiles(rng, slots, most)
        x = floats(rng, int(rng.integers(1, tiles.n + 3)), in_dim)
        rows = rng.integers(0, len(x), tiles.n).astype(np.uint32)
        rows[int(rng.integers(0, tiles.n))] = len(x) - 1
        products = [part for which in (0, 1) for part in _times(slots, tiles, which, x[rows])]
        biases = Biases(rng, tiles.owners, out_dim, 2)
        biases.add(tiles.expert, *products)
        out = activated(form, *products)
        out.expected[~tiles.live] = np.nan
        gated = form[0] == 1
        args = [slots.slabs, tiles.array, x, rows, biases.experts, biases.of(0) if gated else None,
                biases.of(1), out, out_dim, in_dim, group, tiles.n, len(tiles.list),
                len(slots.slabs), slots.words, *slots.offsets, biases.n, *NUMBERS]  # fmt: skip
        grid = len(tiles.list) * -(-out_dim // (64 if gated else 128)) * THREADS
        every = {**slots.constants, **constants(form), **biases.constants, **matrices(rng)}
        name = f"grouped_gate_up_{dtype}_f32"
        return Case(name, args, grid, THREADS, every, f"{shape} {every} {biases.n}")

    return build


def down(dtype: str) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        _, out_dim, in_dim, group, most = shape
        slots = Slots(rng, shape[:4], 1, dtype, UNIT)
        tiles = Tiles(rng, slots, most)
        hidden = floats(rng, tiles.n, in_dim)
        products, sizes = _times(slots, tiles, 0, hidden)
        biases = Biases(rng, tiles.owners, out_dim, 1)
        biases.add(tiles.expert, products, sizes)
        places = rng.permutation(tiles.n + int(rng.integers(0, 3)))[: tiles.n].astype(np.uint32)
        expected, size = (np.full((int(places.max()) + 1, out_dim), np.nan) for _ in range(2))
        expected[places], size[places] = products, sizes
        expected[places[~tiles.live]] = np.nan
        args = [slots.slabs, tiles.array, hidden, places, biases.experts, biases.of(0),
                Out(expected, size), out_dim, in_dim, group, tiles.n, len(tiles.list),
                len(slots.slabs), slots.words, *slots.offsets, biases.n]  # fmt: skip
        grid = len(tiles.list) * -(-out_dim // 128) * THREADS
        every = {**slots.constants, **biases.constants, **matrices(rng)}
        text = f"{shape} {every} {biases.n}"
        return Case(f"grouped_down_{dtype}_f32", args, grid, THREADS, every, text)

    return build


KERNELS = {
    f"grouped_{part}_{dtype}_f32": Family(make(dtype), SHAPES, draw)
    for part, make in (("gate_up", gate_up), ("down", down))
    for dtype in ("bf16", "f16", "f32")
}
