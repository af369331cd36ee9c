"""Dispatches of the gated delta net's kernels."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Case, Family, Generator, Out, Shape, bf16, decode, floats
from .cases_elementwise import geometry, wide

CONV = [(4, 1), (4, 33), (4, 8192), (1, 40), (2, 257), (3, 64), (8, 100)]  # (taps, channels)
VALUE_HEADS = [(1,), (2,), (31,), (32,), (33,), (128,)]
# (value heads, value heads per key head, key_dim, value_dim)
STEPS = [
    (1, 1, 128, 128),
    (4, 2, 128, 128),
    (2, 1, 32, 128),
    (2, 2, 32, 32),
    (3, 3, 128, 1),
    (3, 1, 1, 5),
    (2, 2, 100, 64),
    (5, 2, 128, 200),  # the last key head has one value head only
    (1, 1, 7, 33),
    (1, 1, 256, 1024),
    (2, 1, 64, 40),
]


def draw_conv(rng: Generator) -> Shape:
    return int(rng.integers(1, 7)), int(rng.integers(1, 600))


def draw_heads(rng: Generator) -> Shape:
    return (int(rng.integers(1, 200)),)


def draw_step(rng: Generator) -> Shape:
    per_key = int(rng.integers(1, 4))
    key_dim = int(rng.choice([32, 64, 96, 128, *rng.integers(1, 200, 4)]))
    return per_key * int(rng.integers(1, 4)), per_key, key_dim, int(rng.integers(1, 140))


def conv1d_step(rng: Generator, shape: Shape) -> Case:
    taps, channels = shape
    history, x = floats(rng, taps - 1, channels), wide(rng, channels)
    weights = bf16(floats(rng, channels, taps))
    values = [decode(a) for a in (history, x, weights)]
    out, new = oracles.conv1d_step(*values)
    window = np.abs(np.concatenate([values[0], values[1][None]]))
    size = 1.1 * np.einsum("kc,ck->c", window, np.abs(values[2]))  # |silu'| <= 1.1
    state = Out(new, before=history) if taps > 1 else None
    args = [state, x, weights, Out(out, size), channels]
    constants = {} if taps == 4 else {"K": taps}
    text = f"taps={taps} channels={channels}"
    return Case("conv1d_step", args, *geometry(rng, channels), constants=constants, text=text)


def compute_decay_beta(rng: Generator, shape: Shape) -> Case:
    (heads,) = shape
    alpha, beta = wide(rng, heads), wide(rng, heads)
    a_log = rng.uniform(-9, 5, heads).astype(np.float32)
    dt_bias = bf16(wide(rng, heads) * rng.choice([0.1, 1]))
    values = [decode(a) for a in (alpha, a_log, dt_bias)]
    g = oracles.decay(*values)
    # the exponent's rounding is relative to its size, the sum's to the size of its terms
    a = np.exp(values[1])
    exponent = a * (oracles.softplus(values[0] + values[2]) + abs(values[0]) + abs(values[2]))
    args = [
        alpha,
        beta,
        a_log,
        dt_bias,
        Out(g, g * (1 + exponent)),
        Out(oracles.sigmoid(decode(beta))),
    ]
    threads = int(rng.integers(1, 1025))
    return Case("compute_decay_beta", args, heads, threads, text=f"heads={heads}")


def gated_delta_net_step(rng: Generator, shape: Shape) -> Case:
    heads, per_key, key_dim, value_dim = shape
    key_heads = -(-heads // per_key)
    q, k = (floats(rng, key_heads, key_dim, size=key_dim**-0.5) for _ in range(2))
    state, v = floats(rng, heads, value_dim, key_dim), floats(rng, heads, value_dim)
    g, beta = (rng.uniform(0, 1, heads).astype(np.float32) for _ in range(2))
    values = [decode(a) for a in (state, q, k, v, g, beta)]
    out, new = oracles.delta_step(*values, k_heads_per_v=per_key)
    # the same sums over magnitudes; a minus becomes a plus
    s, q_abs, k_abs, v_abs, *_ = (np.abs(a) for a in values)
    of = np.arange(heads) // per_key
    delta = v_abs + np.einsum("hvk,hk->hv", s, k_abs[of])
    new_size = s + np.einsum("hv,hk->hvk", delta, k_abs[of])
    out_size = np.einsum("hvk,hk->hv", new_size, q_abs[of])
    args = [Out(new, new_size, before=state), q, k, v, g, beta, Out(out, out_size), per_key]
    constants = {} if key_dim == 128 else {"Dk": key_dim}
    text = f"heads={heads}/{per_key} key={key_dim} value={value_dim}"
    return Case(
        "gated_delta_net_step", args, heads * value_dim, value_dim, constants=constants, text=text
    )


KERNELS: dict[str, Family] = {
    "compute_decay_beta": Family(compute_decay_beta, VALUE_HEADS, draw_heads),
    "conv1d_step": Family(conv1d_step, CONV, draw_conv),
    "gated_delta_net_step": Family(gated_delta_net_step, STEPS, draw_step),
}
