"""Dispatches of what latent attention has around its sums over the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats

# (n, heads, rank, nope_dim, rope_dim, first position, step of growing queries)
ROWS = [
    (1, 20, 512, 192, 64, 0, 0),
    (3, 4, 64, 16, 16, 255, 0),
    (5, 1, 36, 8, 2, 100_000, 0),
    (2, 3, 128, 33, 8, 8191, 8192),
    (4, 2, 4, 1, 4, 8190, 4096),
    (1, 7, 256, 128, 64, 1_000_000, 8192),
]
# (n, heads, rank, nope_dim, value_dim)
ABSORB = [
    (1, 20, 512, 192, 256),
    (5, 2, 512, 128, 128),
    (4, 3, 36, 7, 5),
    (9, 1, 4, 1, 1),
    (2, 5, 132, 33, 40),
    (3, 16, 64, 64, 32),
]


def draw_rows(rng: Generator) -> Shape:
    n, heads = (int(v) for v in rng.integers(1, 6, 2))
    rank, nope, rope = (int(v) for v in rng.integers([1, 1, 1], [200, 100, 40]))
    position = int(rng.choice([0, 3, 8000, 262_144]))
    return n, heads, 4 * rank, nope, 2 * rope, position, int(rng.choice([0, 100, 8192]))


def draw_absorb(rng: Generator) -> Shape:
    n, heads, rank, nope, value = (
        int(v) for v in rng.integers([1, 1, 1, 1, 1], [10, 6, 100, 200, 90])
    )
    return n, heads, 4 * rank, nope, value


def turned(x: Array, inv_freq: Array, first: int, scale: float) -> Array:
    """Of x (n, heads, 2 * pairs), whose pairs of neighbours turn; first ones first."""
    return oracles.rope(np.concatenate([x[..., ::2], x[..., 1::2]], -1), inv_freq, first, scale)


def latent_rows(kind: str) -> Callable[[Generator, Shape], Case]:
    def build(rng: Generator, shape: Shape) -> Case:
        n, heads, rank, nope, rope, position, step = shape
        inv_freq = (10_000.0 ** (-np.arange(0, rope, 2) / rope)).astype(np.float32)
        scale, growth = float(rng.choice([1.0, 1.25])), 0.125
        q, kv = floats(rng, n, heads, nope + rope), floats(rng, n, rank + rope)
        norm = floats(rng, rank)
        factor = np.ones(n)
        if step:
            factor += growth * np.log(1 + (position + np.arange(n)) // step)
        grown = decode(q) * factor[:, None, None]
        queries = np.full((n, heads, rank + rope), np.nan)
        queries[..., rank:] = turned(grown[..., nope:], inv_freq, position, scale)
        latent = oracles.rms_norm(decode(kv)[:, :rank], decode(norm), 1e-6)
        key = turned(decode(kv)[:, None, rank:], inv_freq, position, scale)[:, 0]
        cached = np.concatenate([latent, key], axis=1)
        sizes = np.full(queries.shape, 4 * factor.max() * abs(decode(q)).max())
        dtype = np.uint16 if kind == "bf16" else np.float32
        size = abs(cached)
        size[:, rank:] = 4 * abs(decode(kv)).max() if kind == "f32" else size[:, rank:] + 1e-3
        changed = grown.copy()
        changed[..., nope:] = decode(q)[..., nope:]
        planes = [Out(cached, size, dtype=dtype) for _ in range(2)]
        args = [
            *[Out(changed, before=q), kv, norm, inv_freq, Out(queries, sizes), *planes],
            *[n, position, heads, rank, nope, rope, step, growth, 1e-6, scale],
        ]
        grid = -(-n * (heads + 1) // 8) * 256
        return Case(f"latent_rows_{kind}", args, grid, 256, text=f"{shape}")

    return build


def absorb_latent_keys_f32(rng: Generator, shape: Shape) -> Case:
    n, heads, rank, nope, value = shape
    q_head, width = nope + int(rng.integers(0, 9)), rank + 4 * int(rng.integers(0, 5))
    q, kv_b = floats(rng, n, heads, q_head), floats(rng, heads, nope + value, rank)
    kv_b[:, nope:], q[..., nope:] = np.nan, np.nan  # not read
    expected, size = (np.full((n, heads, width), np.nan) for _ in range(2))
    used = decode(q)[..., :nope], decode(kv_b)[:, :nope]
    expected[..., :rank] = np.einsum("thi,hic->thc", *used)
    size[..., :rank] = np.einsum("thi,hic->thc", *map(abs, used))
    args = [q, kv_b, Out(expected, size), n, heads, rank, width, nope, q_head, nope + value]
    grid = -(-n // 4) * heads * -(-rank // 128) * 256
    return Case("absorb_latent_keys_f32", args, grid, 256, text=f"{shape}")


def absorb_latent_values_f32(rng: Generator, shape: Shape) -> Case:
    n, heads, rank, nope, value = shape
    found, kv_b = floats(rng, n, heads, rank), floats(rng, heads, nope + value, rank)
    kv_b[:, :nope] = np.nan  # not read
    used = decode(kv_b)[:, nope:], decode(found)
    out = Out(*(np.einsum("hvc,thc->thv", *each) for each in (used, tuple(map(abs, used)))))
    args = [found, kv_b, out, n, heads, rank, nope, value]
    grid = -(-(-(-n // 4) * heads * value) // 8) * 256
    return Case("absorb_latent_values_f32", args, grid, 256, text=f"{shape}")


KERNELS: dict[str, Family] = {
    "absorb_latent_keys_f32": Family(absorb_latent_keys_f32, ABSORB, draw_absorb),
    "absorb_latent_values_f32": Family(absorb_latent_values_f32, ABSORB, draw_absorb),
    "latent_rows_bf16": Family(latent_rows("bf16"), ROWS, draw_rows),
    "latent_rows_f32": Family(latent_rows("f32"), ROWS, draw_rows),
}
