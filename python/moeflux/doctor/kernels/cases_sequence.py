"""Dispatches of the engine's kernels over a sequence: attention, convolution, delta net."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry, wide
from .cases_matvec import THREADS

# (heads, heads per key head, head_dim, kv_len, chunks)
DECODE = [
    (1, 1, 1, 1, 1),
    (4, 2, 128, 1, 3),
    (2, 1, 80, 255, 1),
    (2, 2, 33, 256, 1),
    (2, 1, 64, 257, 2),
    (3, 3, 5, 4095, 7),
    (2, 2, 8, 4096, 4),
    (2, 1, 7, 4097, 16),
    (16, 4, 256, 20, 5),
    (1, 1, 16, 1100, 1),
]
# (n, position, heads, heads per key head, head_dim): tiles are 16 tokens x 64 positions x 32
PREFILL = [
    (1, 0, 1, 1, 1),
    (16, 0, 2, 1, 32),
    (17, 0, 4, 2, 33),
    (15, 49, 2, 2, 64),
    (16, 48, 2, 1, 128),
    (3, 62, 1, 1, 31),
    (64, 0, 2, 1, 16),
    (2, 4095, 1, 1, 8),
    (20, 100, 8, 4, 256),
    (65, 1, 2, 2, 80),
]
CONV = [(1, 4, 33), (2, 4, 64), (3, 4, 7), (10, 4, 300), (5, 1, 20), (2, 8, 40), (4, 2, 1)]
GATES = [(1, 32), (3, 48), (7, 1), (64, 5)]  # (n, heads)
# (n, key heads, value heads per key head, key_dim, value_dim)
DELTA = [
    (1, 1, 1, 128, 128),
    (5, 2, 2, 128, 128),
    (3, 1, 1, 32, 32),
    (4, 2, 3, 100, 1),
    (2, 1, 2, 1, 5),
    (7, 1, 1, 512, 33),
    (64, 1, 2, 64, 64),
    (2, 3, 1, 33, 40),
]


def draw_decode(rng: Generator) -> Shape:
    per_kv = int(rng.integers(1, 4))
    heads = per_kv * int(rng.integers(1, 3))
    return (
        heads,
        per_kv,
        int(rng.integers(1, 140)),
        int(rng.integers(1, 400)),
        int(rng.integers(1, 6)),
    )


def draw_prefill(rng: Generator) -> Shape:
    per_kv = int(rng.integers(1, 3))
    heads = per_kv * int(rng.integers(1, 3))
    return (
        *(int(v) for v in rng.integers([1, 0], [40, 100])),
        heads,
        per_kv,
        int(rng.integers(1, 80)),
    )


def draw_conv(rng: Generator) -> Shape:
    return int(rng.integers(1, 12)), int(rng.integers(1, 6)), int(rng.integers(1, 300))


def draw_gates(rng: Generator) -> Shape:
    return int(rng.integers(1, 20)), int(rng.integers(1, 70))


def draw_delta(rng: Generator) -> Shape:
    return tuple(int(v) for v in rng.integers([1, 1, 1, 1, 1], [9, 3, 4, 200, 70]))


class Cache:
    """Keys and values, rows wider than the heads need; NaN in the gaps."""

    def __init__(self, rng: Generator, length: int, kv_heads: int, head_dim: int):
        self.width = kv_heads * head_dim + int(rng.choice([0, 0, 5]))
        self.arrays, self.values = [], []
        for _ in range(2):
            rows = np.full((length, self.width), np.nan, np.float32)
            rows[:, : kv_heads * head_dim] = floats(rng, length, kv_heads * head_dim)
            self.arrays.append(rows)
            inside = decode(rows[:, : kv_heads * head_dim])
            self.values.append(inside.reshape(length, kv_heads, head_dim))
        self.keys, self.value = self.values


def magnitude(q: Array, cache: Cache, scale: float) -> float:
    """What the error of an attended value is relative to: values, times the size of exponents.

    q (n, heads, head_dim).
    """
    keys = np.abs(cache.keys).max(axis=0)  # (kv heads, head_dim)
    of = np.arange(q.shape[1]) // (q.shape[1] // len(keys))
    exponent = scale * np.einsum("thd,hd->th", np.abs(q), keys[of]).max()
    return float(np.abs(cache.value).max() * (1 + exponent))


def attention_decode_f32(rng: Generator, shape: Shape) -> Case:
    heads, per_kv, head_dim, kv_len, chunks = shape
    cache = Cache(rng, kv_len, heads // per_kv, head_dim)
    q, scale = floats(rng, heads, head_dim), float(np.float32(head_dim**-0.5))
    scores = oracles.attn_scores(decode(q), cache.keys, scale, per_kv)
    partial = np.zeros((chunks, heads, head_dim))
    stats = np.full((chunks, heads, 2), -np.inf)
    stats[..., 1] = 0
    length = -(-kv_len // chunks)
    for c in range(chunks):
        part = slice(c * length, min((c + 1) * length, kv_len))
        inside = scores[:, part]
        if inside.shape[1]:
            top = inside.max(axis=1)
            weights = np.exp(inside - top[:, None])
            partial[c] = oracles.attn_values(weights, cache.value[part], per_kv)
            stats[c] = np.stack([top, weights.sum(axis=1)], axis=1)
    size = magnitude(decode(q)[None], cache, scale)
    args = [
        q,
        *cache.arrays,
        Out(partial, stats[..., 1:] * size + 0 * partial),
        Out(stats, np.where(np.isfinite(stats), (1 + abs(stats)) * (1 + size), 0)),
        *[heads, per_kv, head_dim, cache.width, kv_len, chunks, scale],
    ]
    threads = int(rng.choice(THREADS[:6]))
    return Case("attention_decode_f32", args, chunks * heads * threads, threads, text=f"{shape}")


def attention_merge_f32(rng: Generator, shape: Shape) -> Case:
    heads, _, head_dim, _, chunks = shape
    partial, stats = floats(rng, chunks, heads, head_dim), wide(rng, chunks, heads, 2)
    stats[..., 1] = rng.uniform(1, 50, (chunks, heads))
    empty = rng.random((chunks, heads)) < 0.3
    empty[0] = False
    stats[empty], partial[empty] = (-np.inf, 0), 0
    top = decode(stats[..., 0])
    weights = np.exp(top - top.max(axis=0))
    total = (weights * decode(stats[..., 1])).sum(axis=0)[:, None]
    finite = np.where(np.isfinite(top), abs(top), 0).max()
    out = Out(
        np.einsum("ch,chd->hd", weights, decode(partial)) / total,
        np.einsum("ch,chd->hd", weights, abs(decode(partial))) / total * (1 + finite),
    )
    args = [partial, stats, out, heads, head_dim, chunks]
    return Case("attention_merge_f32", args, *geometry(rng, heads * head_dim), text=f"{shape}")


def attention_prefill_f32(rng: Generator, shape: Shape) -> Case:
    n, position, heads, per_kv, head_dim = shape
    cache = Cache(rng, position + n, heads // per_kv, head_dim)
    q, scale = floats(rng, n, heads, head_dim), float(np.float32(head_dim**-0.5))
    expected = oracles.attention(decode(q), cache.keys, cache.value, position, scale)
    out = Out(expected, np.full_like(expected, magnitude(decode(q), cache, scale)))
    sizes = [n, position, heads, per_kv, head_dim, cache.width, scale]
    args = [q, *cache.arrays, out, *sizes]
    grid = -(-n // 16) * heads * 256
    return Case("attention_prefill_f32", args, grid, 256, text=f"{shape}")


def conv1d_f32(rng: Generator, shape: Shape) -> Case:
    n, taps, channels = shape
    history, x = floats(rng, taps - 1, channels), wide(rng, n, channels)
    weights = floats(rng, channels, taps)
    y, new = oracles.conv1d(decode(history), decode(x), decode(weights))
    window = np.concatenate([decode(history), decode(x)])
    size = 1.1 * np.stack(
        [np.einsum("kc,ck->c", abs(window[t : t + taps]), abs(decode(weights))) for t in range(n)]
    )
    args = [
        history if taps > 1 else None,
        *[x, weights, Out(y, size), Out(new) if taps > 1 else None],
        *[n, channels, taps],
    ]
    return Case("conv1d_f32", args, *geometry(rng, channels), text=f"{shape}")


def compute_decay_beta_f32(rng: Generator, shape: Shape) -> Case:
    n, heads = shape
    alpha, beta = wide(rng, n, heads), wide(rng, n, heads)
    a_log, dt_bias = rng.uniform(-9, 5, heads).astype(np.float32), wide(rng, heads)
    values = [decode(a) for a in (alpha, a_log, dt_bias)]
    g = oracles.decay(*values)
    exponent = np.exp(values[1]) * (
        oracles.softplus(values[0] + values[2]) + abs(values[0]) + abs(values[2])
    )
    gates = [Out(g, g * (1 + exponent)), Out(oracles.sigmoid(decode(beta)))]
    args = [alpha, beta, a_log, dt_bias, *gates, n, heads]
    return Case("compute_decay_beta_f32", args, *geometry(rng, n * heads), text=f"{shape}")


def gated_delta_net_f32(rng: Generator, shape: Shape) -> Case:
    n, key_heads, per_key, key_dim, value_dim = shape
    heads = key_heads * per_key
    keys, values = key_heads * key_dim, heads * value_dim
    stride = 2 * keys + values + int(rng.choice([0, 3]))
    qkv = np.full((n, stride), np.nan, np.float32)
    qkv[:, : 2 * keys] = floats(rng, n, 2 * keys, size=key_dim**-0.5)
    qkv[:, 2 * keys : 2 * keys + values] = floats(rng, n, values)
    g, beta = (rng.uniform(0, 1, (n, heads)).astype(np.float32) for _ in range(2))
    before = floats(rng, heads, value_dim, key_dim)
    state, size = decode(before), np.abs(decode(before))
    outs, out_sizes = [], []
    for t in range(n):
        row = decode(qkv[t])
        q, k = (row[i * keys : (i + 1) * keys].reshape(key_heads, key_dim) for i in range(2))
        v = row[2 * keys : 2 * keys + values].reshape(heads, value_dim)
        gates = decode(g[t]), decode(beta[t])
        out, state = oracles.delta_step(state, q, k, v, *gates, k_heads_per_v=per_key)
        # magnitudes: the same recurrence with the minus taken as a plus
        of = np.arange(heads) // per_key
        k_abs, gate = np.abs(k)[of], gates[0][:, None, None]
        delta = (np.abs(v) + np.einsum("hvk,hk->hv", size * gate, k_abs)) * gates[1][:, None]
        size = size * gate + np.einsum("hv,hk->hvk", delta, k_abs)
        outs.append(out)
        out_sizes.append(np.einsum("hvk,hk->hv", size, np.abs(q)[of]))
    args = [
        before,
        qkv.reshape(-1)[: (n - 1) * stride + 2 * keys + values],
        *[g, beta, Out(np.stack(outs), np.stack(out_sizes)), Out(state, size)],
        *[n, key_heads, heads, value_dim, stride],
    ]
    constants = {} if key_dim == 128 else {"Dk": key_dim}
    threads = int(rng.choice([n for n in THREADS if n <= 256]))
    grid = heads * -(-value_dim // 2) * 32
    return Case("gated_delta_net_f32", args, grid, threads, constants, f"{shape}")


KERNELS: dict[str, Family] = {
    "attention_decode_f32": Family(attention_decode_f32, DECODE, draw_decode),
    "attention_merge_f32": Family(attention_merge_f32, DECODE, draw_decode),
    "attention_prefill_f32": Family(attention_prefill_f32, PREFILL, draw_prefill),
    "compute_decay_beta_f32": Family(compute_decay_beta_f32, GATES, draw_gates),
    "conv1d_f32": Family(conv1d_f32, CONV, draw_conv),
    "gated_delta_net_f32": Family(gated_delta_net_f32, DELTA, draw_delta),
}
