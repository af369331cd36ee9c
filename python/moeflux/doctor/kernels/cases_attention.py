"""Dispatches of attention over a KV cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry
from .cases_matvec import THREADS

# (heads, heads_per_kv, head_dim, seq_len): one position, a position either side of 4096, head
# dims that are no power of two, 1 and several query heads a key head.
SHAPES = [
    (1, 1, 1, 1),
    (4, 2, 128, 1),
    (8, 8, 64, 31),
    (2, 1, 80, 33),
    (3, 3, 5, 4095),
    (2, 2, 8, 4096),
    (2, 1, 7, 4097),
    (16, 4, 256, 20),
    (6, 3, 192, 65),
]


def draw_shape(rng: Generator) -> Shape:
    per_kv = int(rng.integers(1, 5))
    return (
        per_kv * int(rng.integers(1, 4)),
        per_kv,
        int(rng.integers(1, 140)),
        int(rng.integers(1, 70)),
    )


class Cache:
    """Rows wider than the heads need and scores longer than the sequence; NaN in the gaps."""

    def __init__(self, rng: Generator, shape: Shape):
        self.heads, self.per_kv, self.head_dim, self.seq_len = shape
        self.kv_heads = self.heads // self.per_kv
        used = self.kv_heads * self.head_dim
        self.kv_dim = used + int(rng.choice([0, 0, 3, self.head_dim]))
        self.stride = self.seq_len + int(rng.choice([0, 1, 30]))
        self.rows = np.full((self.seq_len, self.kv_dim), np.nan, np.float32)
        self.rows[:, :used] = floats(rng, self.seq_len, used)
        self.values = decode(self.rows[:, :used]).reshape(self.seq_len, self.kv_heads, -1)
        self.text = f"heads={self.heads}/{self.per_kv} dim={self.head_dim} len={self.seq_len}"

    def scores(
        self, inside: Array, dtype: npt.DTypeLike = np.float64, gap: float = np.nan
    ) -> Array:
        """(heads, stride): `inside`, and `gap` behind it."""
        padded = np.full((self.heads, self.stride), gap, dtype)
        padded[:, : self.seq_len] = inside
        return padded


def attn_scores_batched(rng: Generator, shape: Shape) -> Case:
    cache = Cache(rng, shape)
    q = floats(rng, cache.heads, cache.head_dim)
    scale = float(np.float32(cache.head_dim**-0.5))
    arguments = (scale, cache.per_kv)
    out = Out(
        cache.scores(oracles.attn_scores(decode(q), cache.values, *arguments)),
        cache.scores(oracles.attn_scores(abs(decode(q)), abs(cache.values), *arguments)),
    )
    # as many threadgroups a head as positions; or fewer, or more
    n = max(1, int(rng.choice([cache.seq_len] * 3 + [cache.seq_len // 3, cache.seq_len + 2])))
    threads = int(rng.choice(THREADS[:6]))
    sizes = [cache.head_dim, cache.kv_dim, cache.seq_len, cache.stride]
    args = [q, cache.rows, out, *sizes, scale, cache.per_kv, n]
    return Case("attn_scores_batched", args, n * cache.heads * threads, threads, text=cache.text)


def attn_softmax_batched(rng: Generator, shape: Shape) -> Case:
    cache = Cache(rng, shape)
    x = floats(rng, cache.heads, cache.seq_len, size=float(rng.choice([0, 1, 50, 1000])))
    x += float(rng.choice([0, 200, -200]))
    expected = oracles.softmax(decode(x))
    # the argument of exp is rounded, and that is relative to its size
    top = x.max(axis=-1, keepdims=True)
    size = expected * (1 + np.abs(decode(x) - decode(top)))
    out = Out(cache.scores(expected), cache.scores(size), before=cache.scores(x, np.float32, 1e30))
    threads = int(rng.choice(THREADS))
    args = [out, cache.seq_len, cache.stride]
    return Case("attn_softmax_batched", args, threads * cache.heads, threads, text=cache.text)


def attn_values_batched(rng: Generator, shape: Shape) -> Case:
    cache = Cache(rng, shape)
    weights = oracles.softmax(decode(floats(rng, cache.heads, cache.seq_len))).astype(np.float32)
    out = Out(
        oracles.attn_values(decode(weights), cache.values, cache.per_kv),
        oracles.attn_values(decode(weights), abs(cache.values), cache.per_kv),
    )
    sizes = [cache.head_dim, cache.kv_dim, cache.seq_len, cache.stride, cache.per_kv]
    args = [cache.scores(weights, np.float32), cache.rows, out, *sizes]
    _, threads = geometry(rng, 1)
    grid = cache.heads * cache.head_dim
    return Case("attn_values_batched", args, grid, threads, text=cache.text)


KERNELS: dict[str, Family] = {
    "attn_scores_batched": Family(attn_scores_batched, SHAPES, draw_shape),
    "attn_softmax_batched": Family(attn_softmax_batched, SHAPES, draw_shape),
    "attn_values_batched": Family(attn_values_batched, SHAPES, draw_shape),
}
