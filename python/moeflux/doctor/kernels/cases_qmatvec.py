"""Dispatches of products of a few rows with a matrix of codes, and of gate and up in one."""

from __future__ import annotations

import numpy as np

from ...formats import BITS, GROUPS
from .case import Build, Case, Family, Generator, Out, Shape, decode, floats
from .cases_activation import GATED, NUMBERS, activated, constants, drawn
from .cases_linear import ENCODE, Weights

# (n rows of x, out_dim, in_dim, group size): 16 columns a lane, 2 to 8 rows a threadgroup
ONE = [(1, 1, 64, 64), (1, 2, 7168, 64), (1, 9, 2112, 64), (1, 8, 2048, 128), (1, 7, 1984, 32)]
ONE += [(1, 33, 4096, 64), (1, 257, 320, 32), (1, 3, 96, 32), (1, 5, 512, 64), (1, 6, 544, 32)]
SHAPES = [*ONE, (2, 3, 64, 32), (3, 8, 576, 64), (4, 1, 512, 128), (5, 12, 1056, 32),
          (16, 19, 192, 64)]  # fmt: skip


def draw(rng: Generator) -> Shape:
    group, n = int(rng.choice(GROUPS)), int(rng.integers(1, 20))
    return n, int(rng.integers(1, 40)), group * int(rng.integers(1, 1600 // group)), group


def _geometry(shape: Shape, x_rows: int, rows: int) -> tuple[int, int]:
    return -(-shape[0] // x_rows) * -(-shape[1] // rows) * 128, 128


def matvec(kernel: str, dtype: str, x_rows: int, rows: int) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        weights, n = Weights(rng, True, dtype, shape), shape[0]
        out_dim, in_dim = weights.values.shape
        x = floats(rng, n, in_dim)
        has_bias = int(rng.integers(0, 2))
        bias = floats(rng, out_dim) if has_bias else None
        added = np.zeros(out_dim) if bias is None else decode(bias)
        out = Out(
            decode(x) @ weights.values.T + added, abs(decode(x)) @ weights.sizes.T + abs(added)
        )
        args = [*weights.args, x, bias, out, out_dim, in_dim, *weights.scalars, n, has_bias]
        parts = int(rng.choice((1, 4)))
        geometry = _geometry(shape, x_rows, rows * 4 // parts)
        constants = weights.constants | {"Parts": parts}
        return Case(kernel, args, *geometry, constants, weights.text(f"{n=} {parts=}"))

    return build


def matvecs(kernel: str, dtype: str) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        """The first of up to three matrices has the rows of the shape; the others differ."""
        bits, in_dim, group = int(rng.choice(BITS)), shape[2], shape[3]
        rows = [shape[1], int(rng.integers(0, 20)), int(rng.integers(0, 20))]
        x = floats(rng, 1, in_dim)
        args: list[object] = []
        biased = [int(rng.integers(0, 2)) if n else 0 for n in rows]
        for n, has_bias in zip(rows, biased, strict=True):
            if n == 0:
                args += [None] * 5
                continue
            weights = Weights(rng, True, dtype, (1, n, in_dim, group), bits)
            bias = floats(rng, n) if has_bias else None
            added = np.zeros(n) if bias is None else decode(bias)
            size = abs(decode(x)) @ weights.sizes.T + abs(added)
            out = Out(decode(x) @ weights.values.T + added, size)
            args += [*weights.args, bias, out]
        args += [x, *rows, in_dim, group, *biased]
        grid = sum(-(-n // 4) for n in rows) * 128
        return Case(kernel, args, grid, 128, {"Bits": bits}, f"{shape} {rows=} {bits=}")

    return build


def gate_up(kernel: str, dtype: str, x_rows: int, rows: int) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        bits, n = int(rng.choice(BITS)), shape[0]
        gate, up = (Weights(rng, True, dtype, shape, bits) for _ in range(2))
        out_dim, in_dim = gate.values.shape
        x = floats(rng, n, in_dim)
        (g, g_size), (u, u_size) = (
            (decode(x) @ m.values.T, abs(decode(x)) @ m.sizes.T) for m in (gate, up)
        )
        form = drawn(rng, GATED)
        args = [*gate.args, *up.args, x, activated(form, g, g_size, u, u_size), out_dim, in_dim,
                *gate.scalars, n, *NUMBERS]  # fmt: skip
        every = {**gate.constants, **constants(form)}
        geometry = _geometry(shape, x_rows, rows)
        return Case(kernel, args, *geometry, every, gate.text(f"n={n} {form}"))

    return build


def _kernels() -> dict[str, Family]:
    made: dict[str, Family] = {}
    for dtype in ENCODE:
        name = f"qmatvecs_{dtype}_f32"
        made[name] = Family(matvecs(name, dtype), ONE, draw)
        for form, x_rows in (("", 1), ("4", 4)):
            name = f"qmatvec{form}_{dtype}_f32"
            made[name] = Family(matvec(name, dtype, x_rows, 4 if x_rows == 1 else 2), SHAPES, draw)
            name = f"qgate_up{form}_{dtype}_f32"
            made[name] = Family(gate_up(name, dtype, x_rows, 2 if x_rows == 1 else 1), SHAPES, draw)
    return made


KERNELS = _kernels()
