"""Dispatches of attention of one token with wide heads, or over a cache of latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .case import Case, Family, Generator, Out, Shape, decode, floats
from .cases_attention_cache import Cache, magnitude, split_sums

# (heads, heads per key head, head_dim, value_dim, kv_len, split, window, whether one split ends);
# the values are the keys where value_dim is below head_dim, and may be where it is not
WIDE = [
    (1, 1, 4, 4, 1, 32, 0, 1),
    (4, 2, 512, 512, 33, 32, 0, 0),
    (16, 8, 512, 512, 300, 64, 0, 0),
    (20, 20, 576, 512, 257, 128, 0, 0),
    (9, 9, 80, 64, 600, 256, 0, 0),
    (3, 3, 640, 640, 40, 64, 0, 1),
    (7, 7, 324, 36, 511, 64, 100, 0),
    (2, 1, 256, 256, 769, 256, 400, 0),
    (5, 5, 32, 32, 130, 32, 1, 1),
]


def draw(rng: Generator) -> Shape:
    per_kv, length = int(rng.choice([1, 2, 7, 8, 9, 20])), int(rng.integers(1, 500))
    window = int(rng.integers(1, length + 1)) if rng.random() < 0.3 else 0
    quads = int(rng.integers(1, 80))
    value = quads if rng.random() < 0.5 else int(rng.integers(1, quads + 1))
    split = int(rng.choice([32, 64, 128, 256]))
    heads = per_kv * int(rng.integers(1, 3))
    return heads, per_kv, 4 * quads, 4 * value, length, split, window, 1


def wide(kind: str) -> Callable[[Generator, Shape], Case]:
    def build(rng: Generator, shape: Shape) -> Case:
        heads, per_kv, head_dim, value_dim, kv_len, split, window, ends = shape
        kv_heads = heads // per_kv
        cache = Cache(rng, kind, kv_len, kv_heads, head_dim)
        of_keys = int(value_dim < head_dim or rng.random() < 0.5)
        if of_keys:
            cache.value = cache.keys
            for block in cache.blocks[1::2]:
                block[:] = ~block.dtype.type(0)  # not read: NaN
        cache.value = cache.value[..., :value_dim]
        q, scale = floats(rng, heads, head_dim), float(np.float32(head_dim**-0.5))
        start = max(0, kv_len - window) if window else 0
        splits = -(-kv_len // split) - start // split
        ends = int(ends and splits == 1)
        partial, stats = split_sums(decode(q), cache, scale, start, split)
        size = magnitude(decode(q)[None], cache, scale)
        first, parts = 0, splits
        if not ends:  # some of the splits, as long dispatches are cut
            first = int(rng.integers(0, splits))
            parts = int(rng.integers(1, splits - first + 1))
        others = np.ones(splits, bool)
        others[first : first + parts] = False
        outs: list[Any]
        if ends:
            outs = [Out(partial / stats[..., 1:], size + 0 * partial), None]
        else:
            sizes = stats[..., 1:] * size + 0 * partial, (1 + abs(stats)) * (1 + size)
            partial[others], stats[others] = np.nan, np.nan
            outs = [Out(partial, sizes[0]), Out(stats, sizes[1])]
        numbers = [heads, per_kv, cache.width, value_dim, of_keys, start, kv_len]
        numbers += [split, splits, first, parts, ends, *cache.args]
        grid = parts * kv_heads * -(-per_kv // 8) * 512
        args = [q, cache.blocks, *outs, *numbers, scale]
        return Case(f"attention_wide_{kind}", args, grid, 512, {"HeadDim": head_dim}, f"{shape}")

    return build


KERNELS: dict[str, Family] = {
    f"attention_wide_{kind}": Family(wide(kind), WIDE, draw) for kind in ("f32", "bf16")
}
