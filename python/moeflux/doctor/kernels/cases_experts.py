"""Dispatches of several routed experts at once, each in a slot of its own."""

from __future__ import annotations

import numpy as np

from ...formats import BITS, GROUPS
from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, floats
from .cases_linear import Weights

SLOTS = 16  # bindings; experts of a dispatch at most

# (K experts, out_dim, in_dim, group size)
SHAPES = [(1, 1, 64, 64), (3, 9, 2112, 64), (16, 8, 128, 128), (8, 17, 96, 32), (2, 257, 320, 64)]


def draw(rng: Generator) -> Shape:
    group = int(rng.choice(GROUPS))
    n, out_dim = int(rng.integers(1, SLOTS + 1)), int(rng.integers(1, 30))
    return n, out_dim, group * int(rng.integers(1, 640 // group)), group


class Slots:
    """K slots of the same layout: `n_matrices` matrices each, gaps of junk between the parts."""

    def __init__(self, rng: Generator, shape: Shape, n_matrices: int):
        n = shape[0]
        bits = int(rng.choice(BITS))
        self.matrices = [
            [Weights(rng, True, "bf16", shape, bits) for _ in range(n_matrices)] for _ in range(n)
        ]
        self.constants = self.matrices[0][0].constants
        self.offsets: list[int] = []  # of weights in words, of scales and biases in bf16 values
        at = 0
        places = []
        for part in (part for matrix in self.matrices[0] for part in matrix.args):
            at += int(rng.integers(0, 9)) * 4
            places.append(at)
            self.offsets.append(at // part.itemsize)
            at += -(-part.nbytes // 4) * 4
        self.words = at // 4
        self.args: list[Array | None] = [None] * SLOTS
        for k, matrices in enumerate(self.matrices):
            slot = rng.integers(0, 256, at, dtype=np.uint8)
            parts = [part for matrix in matrices for part in matrix.args]
            for place, part in zip(places, parts, strict=True):
                slot[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
            self.args[k] = slot.view(np.uint32)

    def times(self, which: int, x: Array) -> tuple[Array, Array]:
        """Products with matrix `which` of each slot, and the magnitudes added up; x (K, in)."""
        pairs = [(m[which].values @ row, m[which].sizes @ abs(row))
                 for m, row in zip(self.matrices, x.astype(np.float64), strict=True)]  # fmt: skip
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


def _geometry(shape: Shape) -> tuple[int, int]:
    return shape[0] * -(-shape[1] // 8) * 256, 256


def gate_up(rng: Generator, shape: Shape) -> Case:
    n, out_dim, in_dim, group = shape
    slots = Slots(rng, shape, 2)
    x = floats(rng, int(rng.integers(1, n + 3)), in_dim)
    rows = rng.integers(0, len(x), n).astype(np.uint32)
    rows[int(rng.integers(0, n))] = len(x) - 1
    (g, g_size), (u, u_size) = (slots.times(which, x[rows]) for which in (0, 1))
    # d(silu(g) u): |silu'| <= 1.1
    out = Out(oracles.silu(g) * u, 1.1 * g_size * np.abs(u) + np.abs(oracles.silu(g)) * u_size)
    args = [*slots.args, x, rows, out, out_dim, in_dim, group, n, slots.words, *slots.offsets]
    text = f"{shape} {slots.constants}"
    return Case("experts_gate_up_bf16_f32", args, *_geometry(shape), slots.constants, text)


def down(rng: Generator, shape: Shape) -> Case:
    n, out_dim, in_dim, group = shape
    slots = Slots(rng, shape, 1)
    hidden = floats(rng, n, in_dim)
    products, sizes = slots.times(0, hidden)
    places = rng.permutation(n + int(rng.integers(0, 3)))[:n].astype(np.uint32)
    expected, size = (np.full((int(places.max()) + 1, out_dim), np.nan) for _ in range(2))
    expected[places], size[places] = products, sizes
    out = Out(expected, size)
    args = [*slots.args, hidden, places, out, out_dim, in_dim, group, n, slots.words]
    text = f"{shape} {slots.constants}"
    return Case(
        "experts_down_bf16_f32", [*args, *slots.offsets], *_geometry(shape), slots.constants, text
    )


KERNELS = {
    "experts_gate_up_bf16_f32": Family(gate_up, SHAPES, draw),
    "experts_down_bf16_f32": Family(down, SHAPES, draw),
}
