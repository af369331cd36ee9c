"""Dispatches of the engine's kernels over a sequence: convolution, delta net."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry, wide
from .cases_matvec import THREADS

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


def draw_conv(rng: Generator) -> Shape:
    return int(rng.integers(1, 12)), int(rng.integers(1, 6)), int(rng.integers(1, 300))


def draw_gates(rng: Generator) -> Shape:
    return int(rng.integers(1, 20)), int(rng.integers(1, 70))


def draw_delta(rng: Generator) -> Shape:
    return tuple(int(v) for v in rng.integers([1, 1, 1, 1, 1], [9, 3, 4, 200, 70]))


def drawn_bias(rng: Generator, channels: int) -> Array | None:
    return wide(rng, channels) if rng.random() < 0.5 else None


def convolved(
    history: Array, x: Array, weights: Array, bias: Array | None
) -> tuple[Array, Array, Array]:
    """Float64 history (taps - 1, channels), x (n, channels), weights (channels, taps).

    The sums (n, channels), those of magnitudes, and the new history.
    """
    window, taps = np.concatenate([history, x]), weights.shape[1]
    added = np.zeros(x.shape[1]) if bias is None else decode(bias)
    rows = [window[t : t + taps] for t in range(len(x))]
    sums = np.stack([np.einsum("kc,ck->c", row, weights) + added for row in rows])
    size = np.stack([np.einsum("kc,ck->c", abs(row), abs(weights)) + abs(added) for row in rows])
    return sums, size, window[len(x) :]


def conv1d_f32(rng: Generator, shape: Shape) -> Case:
    n, taps, channels = shape
    history, x = floats(rng, taps - 1, channels), wide(rng, n, channels)
    weights, bias = floats(rng, channels, taps), drawn_bias(rng, channels)
    sums, size, new = convolved(decode(history), decode(x), decode(weights), bias)
    args = [
        history if taps > 1 else None,
        *[x, weights, bias, Out(oracles.silu(sums), 1.1 * size), Out(new) if taps > 1 else None],
        *[n, channels, taps, int(bias is not None)],
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
    "compute_decay_beta_f32": Family(compute_decay_beta_f32, GATES, draw_gates),
    "conv1d_f32": Family(conv1d_f32, CONV, draw_conv),
    "gated_delta_net_f32": Family(gated_delta_net_f32, DELTA, draw_delta),
}
