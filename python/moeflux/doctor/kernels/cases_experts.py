"""Dispatches of several routed experts at once, each in a slot of a slab."""

from __future__ import annotations

import numpy as np

from ...formats import BITS, GROUPS
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .cases_activation import NUMBERS, activated, constants, drawn
from .cases_linear import Weights

UNIT = 16384  # bytes: a slot begins at a multiple of it (csrc/base/slab.h)
ABSENT = 0xFFFFFFFF

# (K experts, out_dim, in_dim, group size)
SHAPES = [(1, 1, 64, 64), (3, 9, 2112, 64), (16, 8, 128, 128), (40, 3, 64, 32), (8, 17, 96, 32),
          (2, 257, 320, 64)]  # fmt: skip


def draw(rng: Generator) -> Shape:
    group = int(rng.choice(GROUPS))
    n, out_dim = int(rng.integers(1, 25)), int(rng.integers(1, 30))
    return n, out_dim, group * int(rng.integers(1, 640 // group)), group


class Slots:
    """K slots of the same layout: `n_matrices` matrices each, gaps of junk between the parts.

    Parts begin at multiples of `unit` bytes. Slots lie in a few slabs in random order; the last
    slab ends with its slot. Some are missing: a slab of a number too large, an expert that is
    absent, a slot that is not all in its slab.
    """

    def __init__(
        self, rng: Generator, shape: Shape, n_matrices: int, dtype: str = "bf16", unit: int = 16
    ):
        n = shape[0]
        bits = int(rng.choice(BITS))
        self.matrices = [
            [Weights(rng, True, dtype, shape, bits) for _ in range(n_matrices)] for _ in range(n)
        ]
        self.constants = self.matrices[0][0].constants
        self.offsets: list[int] = []  # of weights in words, of scales and biases in bf16 values
        at = 0
        places = []
        for part in (part for matrix in self.matrices[0] for part in matrix.args):
            at = -(-at // unit) * unit + int(rng.integers(0, 9)) * unit
            places.append(at)
            self.offsets.append(at // part.itemsize)
            at += -(-part.nbytes // 16) * 16
        self.words = at // 4
        n_slabs, pitch = int(rng.integers(1, 4)), -(-at // UNIT) * UNIT
        places_of = rng.permutation(2 * n * n_slabs)[:n]
        used = [int(max([0, *places_of[places_of % n_slabs == s] // n_slabs])) for s in
                range(n_slabs)]  # fmt: skip
        self.slabs: list[Array] = [rng.integers(0, 256, last * pitch + at, dtype=np.uint8)
                                   for last in used]  # fmt: skip
        self.entries = np.zeros(n, np.uint32)
        self.present = np.ones(n, bool)
        for k, matrices in enumerate(self.matrices):
            slab, offset = int(places_of[k]) % n_slabs, int(places_of[k]) // n_slabs * pitch
            slot = self.slabs[slab][offset : offset + at]
            parts = [part for matrix in matrices for part in matrix.args]
            for place, part in zip(places, parts, strict=True):
                slot[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
            self.entries[k] = slab << 14 | offset // UNIT
            if k and rng.random() < 0.1:
                past_end = used[slab] * pitch // UNIT + 1
                missing = [ABSENT, n_slabs << 14, slab << 14 | past_end]
                self.entries[k] = missing[int(rng.integers(0, 3))]
                self.present[k] = False
        self.slabs = [slab.view(np.uint32) for slab in self.slabs]

    def times(self, which: int, x: Array) -> tuple[Array, Array]:
        """Products with matrix `which` of each slot, and the magnitudes added up; x (K, in)."""
        pairs = [(m[which].values @ row, m[which].sizes @ abs(row))
                 for m, row in zip(self.matrices, x.astype(np.float64), strict=True)]  # fmt: skip
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


class Biases:
    """Those of the outputs of `n` experts, `n_matrices` each, of which slots have numbers; or none.

    `owners` are slots of the kernel's rows or tiles, whose experts the kernel is told.
    """

    def __init__(self, rng: Generator, owners: list[int], out_dim: int, n_matrices: int):
        n_slots = max(owners) + 1
        self.n = n_slots + int(rng.integers(0, 4)) if rng.random() < 0.5 else 0
        self.numbers = rng.permutation(self.n)[:n_slots]
        self.experts = self.numbers[owners].astype(np.uint32) if self.n else None
        self.values = floats(rng, n_matrices, self.n, out_dim)

    def of(self, which: int) -> Array | None:
        return self.values[which] if self.n else None

    @property
    def constants(self) -> dict[str, int]:
        """Of the kernels: that there are some."""
        return {"Biased": 1} if self.n else {}

    def add(self, slots: Array, *products: Array) -> None:
        """To products, and sizes, of each matrix: rows are those of `slots`."""
        for which, values in enumerate(self.values):
            if self.n:
                mine = decode(values[self.numbers[slots]])
                products[2 * which][:] += mine
                products[2 * which + 1][:] += np.abs(mine)


def _geometry(shape: Shape, rows: int, threads: int) -> tuple[int, int]:
    return shape[0] * -(-shape[1] // rows) * threads, threads


def gate_up(rng: Generator, shape: Shape) -> Case:
    n, out_dim, in_dim, group = shape
    slots = Slots(rng, shape, 2)
    x = floats(rng, int(rng.integers(1, n + 3)), in_dim)
    rows = rng.integers(0, len(x), n).astype(np.uint32)
    rows[int(rng.integers(0, n))] = len(x) - 1
    form = drawn(rng)
    products = [part for which in (0, 1) for part in slots.times(which, x[rows])]
    biases = Biases(rng, list(range(n)), out_dim, 2)
    biases.add(np.arange(n), *products)
    out = activated(form, *products)
    out.expected[~slots.present] = np.nan
    gated = form[0] == 1
    args = [slots.slabs, slots.entries, x, rows, biases.experts, biases.of(0) if gated else None,
            biases.of(1), out, out_dim, in_dim, group, n, len(slots.slabs), slots.words,
            *slots.offsets, biases.n, *NUMBERS]  # fmt: skip
    every = {**slots.constants, **constants(form), **biases.constants}
    geometry = _geometry(shape, 2 if gated else 4, 128)
    text = f"{shape} {every} {biases.n}"
    return Case("experts_gate_up_bf16_f32", args, *geometry, every, text)


def down(rng: Generator, shape: Shape) -> Case:
    n, out_dim, in_dim, group = shape
    slots = Slots(rng, shape, 1)
    hidden = floats(rng, n, in_dim)
    products, sizes = slots.times(0, hidden)
    biases = Biases(rng, list(range(n)), out_dim, 1)
    biases.add(np.arange(n), products, sizes)
    places = rng.permutation(n + int(rng.integers(0, 3)))[:n].astype(np.uint32)
    expected, size = (np.full((int(places.max()) + 1, out_dim), np.nan) for _ in range(2))
    expected[places], size[places] = products, sizes
    expected[places[~slots.present]] = np.nan
    args = [slots.slabs, slots.entries, hidden, places, biases.experts, biases.of(0),
            Out(expected, size), out_dim, in_dim, group, n, len(slots.slabs), slots.words,
            *slots.offsets, biases.n]  # fmt: skip
    every = {**slots.constants, **biases.constants}
    text = f"{shape} {every} {biases.n}"
    return Case("experts_down_bf16_f32", args, *_geometry(shape, 8, 64), every, text)


KERNELS = {
    "experts_gate_up_bf16_f32": Family(gate_up, SHAPES, draw),
    "experts_down_bf16_f32": Family(down, SHAPES, draw),
}
