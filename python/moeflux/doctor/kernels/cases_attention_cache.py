"""Dispatches of the engine's attention, over a cache in extents that are named by address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, bf16, decode, floats
from .cases_elementwise import wide

EXTENT, UNIT = 256, 16  # positions of an extent; bytes of which a place in a block is a multiple
ROWS, KEYS, SLICE = 64, 64, 128  # of a tile of attention_prefill

# (n, heads, key heads, head_dim, rotary_dim, first position, norms: of all three where 2)
QKV = [
    (1, 1, 1, 128, 128, 0, 1),
    (2, 4, 2, 128, 64, 4095, 1),
    (3, 2, 1, 256, 64, 100_000, 0),
    (2, 3, 3, 64, 64, 1_000_000, 1),
    (5, 1, 1, 6, 2, 7, 1),
    (1, 2, 1, 33, 32, 31, 0),
    (2, 2, 2, 40, 0, 5, 1),
    (3, 2, 1, 512, 512, 300, 2),
]
# (heads, heads per key head, head_dim, kv_len, split, window, whether one split ends)
DECODE = [
    (1, 1, 4, 1, 32, 0, 1),
    (4, 2, 128, 1, 32, 0, 0),
    (4, 2, 128, 33, 32, 0, 0),
    (2, 1, 80, 255, 256, 0, 1),
    (3, 3, 36, 256, 256, 0, 0),
    (2, 1, 64, 257, 256, 0, 0),
    (8, 8, 128, 300, 64, 0, 0),
    (7, 7, 96, 511, 128, 0, 0),
    (32, 16, 64, 513, 256, 0, 0),
    (16, 4, 256, 40, 64, 0, 1),
    (4, 4, 192, 769, 256, 400, 0),
    (5, 5, 32, 1025, 32, 64, 0),
    (1, 1, 16, 700, 128, 1, 1),
]
# (heads, head_dim, splits, sinks)
MERGE = [
    (1, 4, 1, 0),
    (4, 128, 3, 0),
    (7, 80, 16, 7),
    (6, 256, 130, 2),
    (5, 132, 300, 1),
    (2, 64, 9, 1),
]
# (n, position, heads, heads per key head, head_dim, window, sinks), and channels of values where
# they are fewer: a dispatch of all keys, of several splits, or one that goes on after others and
# does not end
PREFILL = [
    (1, 0, 1, 1, 4, 0, 0),
    (16, 0, 2, 1, 32, 0, 1),
    (17, 0, 4, 2, 36, 0, 0),
    (15, 49, 2, 2, 64, 0, 0),
    (16, 48, 2, 1, 128, 0, 0),
    (3, 254, 1, 1, 32, 0, 0),
    (64, 0, 2, 1, 16, 0, 0),
    (2, 1023, 1, 1, 8, 0, 1),
    (9, 250, 8, 8, 256, 0, 0),
    (20, 100, 7, 7, 192, 30, 1),
    (65, 1, 2, 2, 80, 64, 0),
    (5, 500, 16, 16, 64, 100, 0),
    (3, 70, 4, 2, 512, 0, 0),
    (2, 600, 20, 20, 576, 0, 0, 512),
    (7, 90, 3, 3, 80, 0, 1, 36),
]


def draw_qkv(rng: Generator) -> Shape:
    head_dim = int(rng.integers(1, 200))
    rotary_dim = 2 * int(rng.integers(0, head_dim // 2 + 1))
    position = int(rng.choice([0, 1, 500, 40_000, 262_144]))
    n, heads, kv_heads = (int(v) for v in rng.integers(1, 5, 3))
    return n, heads, kv_heads, head_dim, rotary_dim, position, int(rng.integers(0, 3))


def draw_decode(rng: Generator) -> Shape:
    per_kv, length = int(rng.choice([1, 2, 3, 4, 7, 8, 9, 16])), int(rng.integers(1, 600))
    window = int(rng.integers(1, length + 1)) if rng.random() < 0.3 else 0
    split = int(rng.choice([32, 64, 128, 256]))
    heads = per_kv * int(rng.integers(1, 3))
    return heads, per_kv, 4 * int(rng.integers(1, 40)), length, split, window, 1


def draw_merge(rng: Generator) -> Shape:
    heads = int(rng.integers(1, 9))
    return heads, 4 * int(rng.integers(1, 65)), int(rng.integers(1, 40)), int(rng.integers(0, 4))


def draw_prefill(rng: Generator) -> Shape:
    per_kv = int(rng.choice([1, 2, 5, 8]))
    n, position = (int(v) for v in rng.integers([1, 0], [40, 400]))
    window = int(rng.integers(1, 300)) if rng.random() < 0.3 else 0
    heads = per_kv * int(rng.integers(1, 3))
    return n, position, heads, per_kv, 4 * int(rng.integers(1, 20)), window, int(rng.integers(0, 2))


def encode(array: Array, kind: str) -> Array:
    """Float32 as a cache of `kind` holds it."""
    return bf16(array) if kind == "bf16" else array


class Cache:
    """Keys and values in extents, at a place in a block of junk each; rows wider than the heads.

    The last extent ends with the last position, so that nothing behind it is there to be read.
    """

    def __init__(self, rng: Generator, kind: str, length: int, kv_heads: int, head_dim: int):
        used = kv_heads * head_dim
        self.width = used + int(rng.choice([0, 0, 4]))
        self.values, whole = [], []
        for _ in range(2):
            rows = np.full((length, self.width), np.nan, np.float32)
            rows[:, :used] = floats(rng, length, used)
            stored = encode(rows, kind)
            whole.append(stored)
            self.values.append(decode(stored[:, :used]).reshape(length, kv_heads, head_dim))
        self.keys, self.value = self.values
        self.extents = -(-length // EXTENT)
        places = [int(rng.integers(0, 5)) for _ in range(4)]
        self.blocks: list[Array] = []
        for extent in range(self.extents):
            last = extent == self.extents - 1
            for stored, place in zip(whole, places[2:] if last else places[:2], strict=True):
                part = stored[extent * EXTENT : (extent + 1) * EXTENT].reshape(-1).view(np.uint8)
                junk = np.full(place * UNIT, 0xFF, np.uint8)
                block = np.concatenate([junk, part])
                self.blocks.append(block.view(np.uint16 if kind == "bf16" else np.uint32))
        # `last`, and where keys and values lie
        self.args = [self.extents, self.extents - 1, *places]


def magnitude(q: Array, cache: Cache, scale: float) -> float:
    """What the error of an attended value is relative to: values, times the size of exponents.

    q (n, heads, head_dim).
    """
    keys = np.abs(cache.keys).max(axis=0)  # (kv heads, head_dim)
    of = np.arange(q.shape[1]) // (q.shape[1] // len(keys))
    exponent = scale * np.einsum("thd,hd->th", np.abs(q), keys[of]).max()
    return float(np.abs(cache.value).max() * (1 + exponent))


def sums(scores: Array, values: Array) -> tuple[Array, Array]:
    """Scores (rows, p), -inf where hidden, values (rows, p, d) -> sums and (top, total)."""
    top = scores.max(axis=1, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0)[:, None])
    stats = np.stack([top, weights.sum(axis=1)], axis=1)
    return np.einsum("rp,rpd->rd", weights, values), stats


class Token:
    """Queries, key and value of a token, before norm and rotary position and behind them."""

    def __init__(self, rng: Generator, kind: str, heads: int, kv_heads: int, head_dim: int):
        self.rotary_dim = 2 * int(rng.integers(0, head_dim // 2 + 1))
        self.norms, self.rope_scale = int(rng.integers(0, 2)), float(rng.choice([1.0, 1.25]))
        inv_freq = 10_000.0 ** (-np.arange(0, self.rotary_dim, 2) / max(self.rotary_dim, 1))
        self.inv_freq = inv_freq.astype(np.float32)
        self.q, self.k, self.v = (floats(rng, h, head_dim) for h in (heads, kv_heads, kv_heads))
        self.weights = [floats(rng, head_dim) if self.norms else None for _ in range(2)]
        self.kind, self.draw = kind, rng

    def turned(self, x: Array, weight: Array | None, position: int) -> Array:
        values = decode(x)
        if weight is not None:
            values = oracles.rms_norm(values, decode(weight), 1e-6)
        return oracles.rope(values[None], self.inv_freq, position, self.rope_scale)[0]

    def key(self, position: int) -> Array:
        """As a cache holds it; none of it is so near to a tie that it may be rounded either way."""
        while True:
            key = self.turned(self.k, self.weights[1], position)
            part = np.abs(key) / 2.0 ** (np.floor(np.log2(np.abs(key) + 1e-30)) - 7) % 1
            near = np.abs(part - 0.5) < 2e-3
            if self.kind == "f32" or not near.any():
                return decode(encode(key.astype(np.float32), self.kind))
            self.k[near.any(axis=1)] = floats(self.draw, *self.k.shape)[near.any(axis=1)]


def split_sums(q: Array, cache: Cache, scale: float, start: int, split: int) -> tuple[Array, Array]:
    """Of a token's q (heads, head_dim) over positions from start on: sums (splits, heads, head_dim)
    and (splits, heads, 2) of each split that it sees a part of.
    """  # noqa: D205
    length, kv_heads = cache.keys.shape[:2]
    per_kv = len(q) // kv_heads
    scores = oracles.attn_scores(q, cache.keys, scale, per_kv)
    scores[:, :start] = -np.inf
    found = []
    for begin in range(start // split * split, length, split):
        values = cache.value[begin : begin + split].repeat(per_kv, axis=1).transpose(1, 0, 2)
        found.append(sums(scores[:, begin : begin + split], values))
    partial, stats = zip(*found, strict=True)
    return np.stack(partial), np.stack(stats)


def decoding(kind: str, n: int) -> Callable[[Generator, Shape], Case]:
    def build(rng: Generator, shape: Shape) -> Case:
        heads, per_kv, head_dim, kv_len, split, window, ends = shape
        cache = Cache(rng, kind, kv_len, heads // per_kv, head_dim)
        token, scale = Token(rng, kind, heads, heads // per_kv, head_dim), head_dim**-0.5
        scale = float(np.float32(scale))
        cache.keys[-1], cache.value[-1] = token.key(kv_len - 1), decode(encode(token.v, kind))
        for block in cache.blocks[-2:]:
            block[-cache.width :] = ~block.dtype.type(0)  # not read: NaN
        q = token.turned(token.q, token.weights[0], kv_len - 1)
        dtype = np.uint16 if kind == "bf16" else np.float32
        key_size = 4 * np.abs(cache.keys[-1]).max(axis=-1, keepdims=True) + 0 * cache.keys[-1]
        new = [Out(cache.keys[-1], key_size, dtype=dtype), Out(cache.value[-1], dtype=dtype)]
        start = max(0, kv_len - window) if window else 0
        splits = -(-kv_len // split) - start // split
        ends = int(ends and splits == 1)
        partial, stats = split_sums(q, cache, scale, start, split)
        size = magnitude(q[None], cache, scale)
        if ends:
            outs = [Out(partial / stats[..., 1:], size + 0 * partial), None]
        else:
            outs = [
                Out(partial, stats[..., 1:] * size + 0 * partial),
                Out(stats, (1 + abs(stats)) * (1 + size)),
            ]
        sizes = [heads, per_kv, cache.width, start, kv_len, split, splits, ends]
        sizes += [token.rotary_dim, token.norms, token.norms]
        inv_freq = token.inv_freq if token.rotary_dim else None
        args: list[Any] = [token.q, token.k, token.v, *new, *token.weights, inv_freq, cache.blocks]
        args += [*outs, *sizes, *cache.args, scale, 1e-6, token.rope_scale]
        grid = splits * (heads // per_kv) * -(-per_kv // n) * 256
        name = f"attention_decode_{kind}_{n}"
        return Case(name, args, grid, 256, {"HeadDim": head_dim}, f"{shape}")

    return build


def attention_merge_f32(rng: Generator, shape: Shape) -> Case:
    heads, head_dim, splits, n_sinks = shape
    partial, stats = floats(rng, splits, heads, head_dim), wide(rng, splits, heads, 2)
    stats[..., 1] = rng.uniform(1, 50, (splits, heads))
    empty = rng.random((splits, heads)) < 0.3
    empty[0] = False
    stats[empty], partial[empty] = (-np.inf, 0), 0
    sinks = wide(rng, n_sinks) if n_sinks else None
    top = decode(stats[..., 0])
    most = top.max(axis=0)
    sink = np.full(heads, -np.inf)
    if sinks is not None:
        sink = decode(sinks)[np.arange(heads) % n_sinks]
        most = np.maximum(most, sink)
    weights = np.exp(top - most)
    total = ((weights * decode(stats[..., 1])).sum(axis=0) + np.exp(sink - most))[:, None]
    finite = np.where(np.isfinite(top), abs(top), 0).max() + (
        0 if sinks is None else abs(sinks).max()
    )
    out = Out(
        np.einsum("ch,chd->hd", weights, decode(partial)) / total,
        np.einsum("ch,chd->hd", weights, abs(decode(partial))) / total * (1 + finite),
    )
    args = [partial, stats, sinks, out, heads, head_dim, splits, n_sinks]
    return Case("attention_merge_f32", args, heads * 256, 256, text=f"{shape}")


class Rows:
    """What a prompt's rows see, and their sums over ranges of positions."""

    def __init__(self, rng: Generator, kind: str, shape: Shape):
        self.n, self.position, self.heads, per_kv, head_dim, window, _, *rest = shape
        self.value_dim = rest[0] if rest else head_dim
        self.end = self.position + self.n
        self.cache = Cache(rng, kind, self.end, self.heads // per_kv, head_dim)
        self.q = floats(rng, self.n, self.heads, head_dim)
        self.scale = float(np.float32(head_dim**-0.5))
        self.of = np.arange(self.heads) // per_kv
        keys = self.cache.keys[:, self.of]
        scores = self.scale * np.einsum("thd,phd->thp", decode(self.q), keys)
        at, p = self.position + np.arange(self.n)[:, None], np.arange(self.end)
        hidden = (p > at) | ((p <= at - window) & (window > 0))
        self.scores = np.where(hidden[:, None], -np.inf, scores)

    def sums(self, begin: int, end: int) -> tuple[Array, Array]:
        """(n, heads, head_dim) and (n, heads, 2)."""
        values = self.cache.value[begin:end][:, self.of, : self.value_dim].transpose(1, 0, 2)
        values = np.broadcast_to(values, (self.n, *values.shape)).reshape(-1, *values.shape[1:])
        part, stats = sums(self.scores[..., begin:end].reshape(len(values), -1), values)
        return part.reshape(self.n, self.heads, -1), stats.reshape(self.n, self.heads, 2)


def with_sinks(out: Array, stats: Array, sinks: Array | None) -> tuple[Array, Array]:
    """Sums and totals with the sinks (heads) in the softmax; sinks None: without."""
    if sinks is None:
        return out, stats[..., 1]
    top = np.maximum(stats[..., 0], decode(sinks))
    shrink = np.exp(stats[..., 0] - top)
    return out * shrink[..., None], stats[..., 1] * shrink + np.exp(decode(sinks) - top)


def prefill(kind: str) -> Callable[[Generator, Shape], Case]:
    def build(rng: Generator, shape: Shape) -> Case:
        rows = Rows(rng, kind, shape)
        n, position, heads, per_kv, head_dim, window, has_sinks, *_ = shape
        way = str(rng.choice(["whole", "splits", "first", "last"]))
        slices, end = -(-rows.value_dim // SLICE), rows.end
        middle = end // 2 // KEYS * KEYS
        begin, stop = {"first": (0, middle or end), "last": (middle, end)}.get(way, (0, end))
        ends, resumes = int(way in ("whole", "last")), int(way == "last" and middle > 0)
        split = KEYS * int(rng.integers(1, 4)) if way == "splits" else -(-end // KEYS) * KEYS
        if way == "splits" and window:  # without those that no row sees
            begin = max(position + 1 - window, 0) // split * split
        starts = range(begin if way == "splits" else 0, end, split)
        splits = len(starts)
        parts = [rows.sums(s, min(s + split, stop)) for s in starts]
        out, stats = (np.stack(each) for each in zip(*parts, strict=True))
        sinks = wide(rng, heads) if has_sinks else None
        before = [
            each.astype(np.float32) for each in (rows.sums(0, middle) if resumes else (out, stats))
        ]
        out, total = with_sinks(out, stats, sinks if ends else None)
        size = magnitude(decode(rows.q), rows.cache, rows.scale)
        size *= 1 + (np.abs(sinks).max() if sinks is not None else 0)
        whole = np.broadcast_to(stats, (slices, *stats.shape)).copy()
        known: Out | Array | None = None
        if ends:
            result = Out(out / total[..., None], size + 0 * out)
        else:
            result = Out(out, np.maximum(total[..., None], 1) * size + 0 * out)
            known = Out(whole, np.where(np.isfinite(whole), (1 + abs(whole)) * (1 + size), 0))
        if resumes:
            result.before = before[0][None]
            known = np.broadcast_to(before[1][None], whole.shape).copy()
            known = known if ends else Out(whole, before=known)
        tiles = -(-n * per_kv // ROWS)
        first, some = 0, splits
        if splits > 1:  # some of the splits, as long dispatches are cut
            first = int(rng.integers(0, splits))
            some = int(rng.integers(1, splits - first + 1))
            others = np.setdiff1d(np.arange(splits), np.arange(first, first + some))
            result.expected[others], whole[:, others] = np.nan, np.nan
        sizes = [n, position, heads, per_kv, rows.cache.width, rows.value_dim, window, has_sinks]
        parts_of = [0, tiles, splits, split, first, some, begin, stop, resumes, ends]
        numbers = [*sizes, *parts_of, *rows.cache.args, rows.scale]
        args = [rows.q, rows.cache.blocks, result, known, sinks, *numbers]
        grid = some * tiles * (heads // per_kv) * slices * 256
        text = f"{shape} {way}"
        return Case(f"attention_prefill_{kind}", args, grid, 256, {"HeadDim": head_dim}, text)

    return build


def into_cache(kind: str) -> Callable[[Generator, Shape], Case]:
    def build(rng: Generator, shape: Shape) -> Case:
        n, heads, kv_heads, head_dim, rotary_dim, position, norms = shape
        inv_freq = 10_000.0 ** (-np.arange(0, rotary_dim, 2) / max(rotary_dim, 1))
        inv_freq = inv_freq.astype(np.float32)
        rope_scale = float(rng.choice([1.0, 1.25]))

        def rotated(x: Array, weight: Array | None) -> tuple[Array, Array]:
            values = decode(x)
            if weight is not None:
                values = oracles.rms_norm(values, decode(weight), 1e-6)
            half = rotary_dim // 2
            pair = [values[..., half:rotary_dim], values[..., :half], 0 * values[..., rotary_dim:]]
            size = 1.25 * (abs(values) + abs(np.concatenate(pair, axis=-1)))
            return oracles.rope(values, inv_freq, position, rope_scale), size

        q, k, v = (floats(rng, n, h, head_dim) for h in (heads, kv_heads, kv_heads))
        q_norm, k_norm = (floats(rng, head_dim) if norms else None for _ in range(2))
        dtype = np.uint16 if kind == "bf16" else np.float32
        value = decode(encode(v, kind))
        if norms == 2:
            value = oracles.rms_norm(decode(v), np.ones(head_dim), 1e-6)
        values = Out(value, dtype=dtype)
        normed = int(norms > 0)
        args = [
            Out(*rotated(q, q_norm), before=q),
            *[k, v, Out(*rotated(k, k_norm), dtype=dtype), values, q_norm, k_norm],
            inv_freq if rotary_dim else None,
            *[n, position, heads, kv_heads, head_dim, rotary_dim],
            *[normed, normed, int(norms == 2), 1e-6, rope_scale],
        ]
        grid = -(-n * (heads + 2 * kv_heads) // 8) * 256
        return Case(f"attention_rows_{kind}", args, grid, 256, text=f"{shape}")

    return build


KERNELS: dict[str, Family] = {
    "attention_merge_f32": Family(attention_merge_f32, MERGE, draw_merge),
}
for _kind in ("f32", "bf16"):
    KERNELS[f"attention_prefill_{_kind}"] = Family(prefill(_kind), PREFILL, draw_prefill)
    KERNELS[f"attention_rows_{_kind}"] = Family(into_cache(_kind), QKV, draw_qkv)
    for _n in (1, 4, 8):
        KERNELS[f"attention_decode_{_kind}_{_n}"] = Family(decoding(_kind, _n), DECODE, draw_decode)
