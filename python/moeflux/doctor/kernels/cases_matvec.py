"""Dispatches of the affine-quantised matrix-vector kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...formats import GROUPS
from . import oracles
from .case import Array, Build, Case, Family, Generator, Out, Shape, bf16, decode, floats

# (out_dim, in_dim, group_size): one row, rows around a multiple of 8, columns around the tile of
# 2048, in_dim 7168 and others that are no multiple of 256, a single group, groups 32, 64, 128.
SHAPES = [
    (1, 64, 64),
    (1, 7168, 64),
    (2, 32, 32),
    (3, 96, 32),
    (7, 1984, 64),
    (8, 2048, 64),
    (9, 2112, 64),
    (5, 2080, 32),
    (6, 2016, 32),
    (13, 2176, 128),
    (11, 1920, 128),
    (33, 7168, 128),
    (16, 4096, 64),
    (17, 4160, 64),
    (257, 320, 64),
    (4, 384, 96),
    (10, 480, 16),
]
THREADS = (32, 64, 96, 128, 224, 256, 480, 512, 992, 1024)


def draw_shape(rng: Generator) -> Shape:
    group = int(rng.choice(GROUPS))
    return int(rng.integers(1, 40)), group * int(rng.integers(1, 2560 // group)), group


class Matrix:
    """A random matrix of `bits` codes; scales of both signs, as MLX's quantiser gives them."""

    def __init__(self, rng: Generator, bits: int, out_dim: int, in_dim: int, group: int):
        self.bits = bits
        self.words = rng.integers(0, 1 << 32, (out_dim, in_dim * bits // 32), dtype=np.uint32)
        step = 2.0 / (1 << bits)
        self.scales = bf16(floats(rng, out_dim, in_dim // group, size=step))
        self.biases = bf16(floats(rng, out_dim, in_dim // group))

    @property
    def arrays(self) -> list[Array]:
        return [self.words, self.scales, self.biases]

    def times(self, x: Array) -> Array:
        return self._apply(oracles.dequant_matvec, x)

    def size(self, x: Array) -> Array:
        return self._apply(oracles.dequant_matvec_size, x)

    def _apply(self, function: Callable[..., Array], x: Array) -> Array:
        return function(self.words, decode(self.scales), decode(self.biases), decode(x), self.bits)


def matvec(kernel: str, bits: int, geometry: str) -> Build:
    """A builder of cases; geometry: "thread", "threadgroup" or "simdgroup" per row."""

    def build(rng: Generator, shape: Shape) -> Case:
        out_dim, in_dim, group = shape
        if group % 32 and (kernel.endswith("v4") or bits == 2):
            group = 32 * (group // 16)  # their real limits, which the binding table states
            in_dim = max(in_dim // group, 1) * group
        matrix, x = Matrix(rng, bits, out_dim, in_dim, group), floats(rng, in_dim)
        if geometry == "thread":
            threads, grid = int(rng.integers(1, 1025)), out_dim + int(rng.integers(0, 3))
        elif geometry == "threadgroup":
            threads = int(rng.choice(THREADS))
            grid = threads * out_dim
        else:  # whole threadgroups, or a ragged last one of whole SIMD groups
            threads, grid = 256, int(rng.choice([-(-out_dim // 8) * 256, out_dim * 32]))
        out = Out(matrix.times(x), matrix.size(x))
        args = [*matrix.arrays, x, out, out_dim, in_dim, group]
        return Case(kernel, args, grid, threads, text=f"out={out_dim} in={in_dim} group={group}")

    return build


def batched(rng: Generator, shape: Shape) -> Case:
    """K matrices at places of one buffer that are in no order, with room between them."""
    out_dim, in_dim, group = shape
    n = int(rng.choice([1, 2, 3, 8, 16]))
    matrices = [Matrix(rng, 4, out_dim, in_dim, group) for _ in range(n)]
    x = floats(rng, n, in_dim)
    args: list[Any] = []
    offsets = []
    order = rng.permutation(n)
    for arrays in zip(*(m.arrays for m in matrices), strict=True):
        gap = int(rng.integers(0, 9))
        each = arrays[0].size + gap
        buffer = np.full(each * n - gap, 0x7FC1, arrays[0].dtype)
        for place, array in zip(order, arrays, strict=True):
            buffer[place * each :][: array.size] = array.reshape(-1)
        args.append(buffer)
        offsets.append((order * each).astype(np.uint32))
    out = Out(
        np.stack([m.times(row) for m, row in zip(matrices, x, strict=True)]),
        np.stack([m.size(row) for m, row in zip(matrices, x, strict=True)]),
    )
    tiles = -(-out_dim // 8)
    args += [x, out, out_dim, in_dim, group, *offsets, tiles]
    text = f"K={n} out={out_dim} in={in_dim} group={group}"
    return Case("dequant_matvec_4bit_batched", args, tiles * n * 256, 256, text=text)


def gate_up(rng: Generator, shape: Shape) -> Case:
    out_dim, in_dim, group = shape
    gate, up = (Matrix(rng, 4, out_dim, in_dim, group) for _ in range(2))
    x = floats(rng, in_dim)
    g, u = gate.times(x), up.times(x)
    # d(silu(g) u): |silu'| <= 1.1
    size = 1.1 * gate.size(x) * np.abs(u) + np.abs(oracles.silu(g)) * up.size(x)
    threads = int(rng.choice(THREADS))
    args = [*gate.arrays, *up.arrays, x, Out(oracles.silu(g) * u, size), out_dim, in_dim, group]
    text = f"out={out_dim} in={in_dim} group={group}"
    return Case("fused_gate_up_swiglu", args, out_dim * threads, threads, text=text)


KERNELS: dict[str, Family] = {
    "dequant_matvec_2bit": Family(
        matvec("dequant_matvec_2bit", 2, "simdgroup"), SHAPES, draw_shape
    ),
    "dequant_matvec_4bit": Family(matvec("dequant_matvec_4bit", 4, "thread"), SHAPES, draw_shape),
    "dequant_matvec_4bit_batched": Family(batched, SHAPES, draw_shape),
    "dequant_matvec_4bit_fast": Family(
        matvec("dequant_matvec_4bit_fast", 4, "threadgroup"), SHAPES, draw_shape
    ),
    "fused_gate_up_swiglu": Family(gate_up, SHAPES, draw_shape),
    **{
        name: Family(matvec(name, bits, "simdgroup"), SHAPES, draw_shape)
        for name, bits in {
            "dequant_matvec_4bit_v3": 4,
            "dequant_matvec_4bit_v4": 4,
            "dequant_matvec_4bit_v5": 4,
            "dequant_matvec_8bit_v3": 8,
        }.items()
    },
}
