"""Dispatches of linear layers and embeddings in every weight format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...formats import BITS, GROUPS
from . import oracles
from .case import Array, Build, Case, Family, Generator, Out, Shape, bf16, decode, floats
from .cases_elementwise import geometry
from .cases_matvec import THREADS

ENCODE: dict[str, Callable[[Array], Array]] = {
    "bf16": bf16,
    "f16": lambda x: x.astype(np.float16),
    "f32": lambda x: x,
}

# (n tokens, out_dim, in_dim, group size): tiles are 128 rows x 64 tokens, of which a thread sums
# 1, 2, 4, 6 or 8; 8 columns at a time
MATMUL = [
    (1, 1, 32, 32),
    (31, 63, 64, 32),
    (32, 64, 128, 128),
    (33, 65, 192, 64),
    (64, 128, 96, 32),
    (65, 129, 96, 96),
    (16, 127, 32, 32),
    (5, 257, 320, 64),
    (40, 3, 2048, 64),
    (2, 9, 7168, 128),
]
MATVEC = [(1, *rest) for rest in [(1, 64, 64), (1, 7168, 64), (9, 2112, 64), (8, 2048, 128)]]
MATVEC += [(1, *rest) for rest in [(7, 1984, 32), (33, 4096, 64), (257, 320, 32), (3, 96, 96)]]
EMBED = [(1, 1, 32, 32), (3, 10, 96, 32), (7, 50, 256, 64), (64, 5, 128, 128)]


def draw_matmul(rng: Generator) -> Shape:
    group = int(rng.choice(GROUPS))
    n, out_dim = int(rng.integers(1, 70)), int(rng.integers(1, 140))
    return n, out_dim, group * int(rng.integers(1, 512 // group)), group


def draw_matvec(rng: Generator) -> Shape:
    group = int(rng.choice(GROUPS))
    return 1, int(rng.integers(1, 40)), group * int(rng.integers(1, 2560 // group)), group


def draw_embed(rng: Generator) -> Shape:
    n, vocabulary, _, group = draw_matmul(rng)
    return n, vocabulary, group * int(rng.integers(1, 4)), group


class Weights:
    """A random matrix: its arguments, values, and the magnitudes that a product adds up."""

    def __init__(
        self, rng: Generator, quantised: bool, dtype: str, shape: Shape, bits: int | None = None
    ):
        _, out_dim, in_dim, group = shape
        self.constants: dict[str, int] = {}
        if not quantised:
            in_dim -= int(rng.integers(0, 29))  # any width, 16 bytes or more
            stored = ENCODE[dtype](floats(rng, out_dim, in_dim))
            self.args, self.scalars = [stored], []
            self.values, self.sizes = decode(stored), np.abs(decode(stored))
            return
        if bits is None:
            bits = int(rng.choice(BITS))  # which of 100 drawn shapes all meet
        words = rng.integers(0, 1 << 32, (out_dim, in_dim * bits // 32), dtype=np.uint32)
        scales = ENCODE[dtype](floats(rng, out_dim, in_dim // group, size=2.0 / (1 << bits)))
        biases = ENCODE[dtype](floats(rng, out_dim, in_dim // group))
        self.args, self.scalars = [words, scales, biases], [group]
        self.values = oracles.dequantize(words, decode(scales), decode(biases), bits)
        self.sizes = oracles.dequantize(words, abs(decode(scales)), abs(decode(biases)), bits)
        if bits != 4:
            self.constants = {"Bits": bits}

    def text(self, *more: str) -> str:
        out_dim, in_dim = self.values.shape
        return " ".join([*more, f"out={out_dim} in={in_dim} {self.scalars} {self.constants}"])


def matrices(rng: Generator) -> dict[str, int]:
    """Now and then the form of a product by matrices of a SIMD group."""
    return {"Matrices": 1} if rng.random() < 0.3 else {}


def linear(kernel: str, quantised: bool, dtype: str, one_row: bool) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        weights = Weights(rng, quantised, dtype, shape)
        (out_dim, in_dim), n = weights.values.shape, shape[0]
        x = floats(rng, n, in_dim)
        has_bias = int(rng.integers(0, 2))
        bias = floats(rng, out_dim) if has_bias else None
        added = np.zeros(out_dim) if bias is None else decode(bias)
        out = Out(
            decode(x) @ weights.values.T + added, abs(decode(x)) @ weights.sizes.T + abs(added)
        )
        tokens = [] if one_row else [n]
        sizes = [out_dim, in_dim, *weights.scalars, *tokens, has_bias]
        threads = int(rng.choice(THREADS)) if one_row and not quantised else 256 if one_row else 128
        grid = out_dim * 32 if one_row else -(-out_dim // 128) * -(-n // 64) * 128
        args = [*weights.args, x, bias, out, *sizes]
        constants = weights.constants if one_row else {**weights.constants, **matrices(rng)}
        return Case(kernel, args, grid, threads, constants, f"{weights.text(f'n={n}')} {constants}")

    return build


def embed(kernel: str, quantised: bool, dtype: str) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        table, n = Weights(rng, quantised, dtype, shape), shape[0]
        vocabulary, dim = table.values.shape
        tokens = rng.integers(0, vocabulary, n).astype(np.uint32)
        tokens[int(rng.integers(0, n))] = vocabulary - 1  # the table is as small as it may be
        out = Out(table.values[tokens], table.sizes[tokens])
        args = [*table.args, tokens, out, dim, *table.scalars, n]
        work = n * dim // 8 if quantised else n * dim
        text = table.text(f"n={n}")
        return Case(kernel, args, *geometry(rng, work), constants=table.constants, text=text)

    return build


def _kernels() -> dict[str, Family]:
    made: dict[str, Family] = {}
    for dtype in ENCODE:
        for quantised in (False, True):
            q = "q" if quantised else ""
            if not quantised:
                name = f"matvec_{dtype}_f32"
                made[name] = Family(linear(name, quantised, dtype, True), MATVEC, draw_matvec)
            name = f"{q}matmul_{dtype}_f32"
            made[name] = Family(linear(name, quantised, dtype, False), MATMUL, draw_matmul)
            name = f"{q}embed_{dtype}_f32"
            made[name] = Family(embed(name, quantised, dtype), EMBED, draw_embed)
    return made


KERNELS = _kernels()
