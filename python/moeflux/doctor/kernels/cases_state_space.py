"""Dispatches of Mamba-2's kernels and of the gated convolution."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry, wide
from .cases_matvec import THREADS
from .cases_sequence import CONV, GATES, convolved, draw_conv, draw_gates, drawn_bias

# (n, groups, heads of a group, head_dim, state_dim)
SPACE = [
    (1, 2, 4, 64, 128),
    (5, 1, 2, 64, 128),
    (3, 1, 1, 32, 32),
    (4, 2, 3, 1, 100),
    (2, 1, 2, 5, 1),
    (7, 1, 1, 33, 512),
    (64, 2, 1, 16, 64),
    (2, 3, 1, 40, 33),
]
NORM = [(1, 1, 128), (3, 8, 512), (2, 4, 1), (5, 2, 33), (4, 3, 1100)]  # (n, groups, width)


def draw_space(rng: Generator) -> Shape:
    return tuple(int(v) for v in rng.integers([1, 1, 1, 1, 1], [9, 4, 4, 70, 200]))


def draw_norm(rng: Generator) -> Shape:
    return tuple(int(v) for v in rng.integers([1, 1, 1], [6, 9, 600]))


def gated_convolution_f32(rng: Generator, shape: Shape) -> Case:
    n, taps, channels = shape
    history, weights = floats(rng, taps - 1, channels), floats(rng, channels, taps)
    parts, bias = wide(rng, n, 3, channels), drawn_bias(rng, channels)
    before, gate, inputs = decode(parts).transpose(1, 0, 2)
    sums, size, new = convolved(decode(history), before * inputs, decode(weights), bias)
    args = [
        history if taps > 1 else None,
        *[parts, weights, bias, Out(gate * sums, abs(gate) * size)],
        Out(new) if taps > 1 else None,
        *[n, channels, taps, int(bias is not None)],
    ]
    return Case("gated_convolution_f32", args, *geometry(rng, channels), text=f"{shape}")


def state_space_steps_f32(rng: Generator, shape: Shape) -> Case:
    n, heads = shape
    steps, dt_bias = wide(rng, n, heads), wide(rng, heads)
    a_log = rng.uniform(-9, 5, heads).astype(np.float32)
    sums, sizes = decode(steps) + decode(dt_bias), abs(decode(steps)) + abs(decode(dt_bias))
    dt, a = oracles.softplus(sums), np.exp(decode(a_log))
    slope = oracles.sigmoid(sums)  # how the rounding of the sum goes on
    decay = np.exp(-a * dt)
    outs = [Out(dt, dt + slope * sizes), Out(decay, decay * (1 + a * (2 * dt + slope * sizes)))]
    args = [steps, dt_bias, a_log, *outs, n, heads]
    return Case("state_space_steps_f32", args, *geometry(rng, n * heads), text=f"{shape}")


def state_space_f32(rng: Generator, shape: Shape) -> Case:
    n, groups, of_group, head_dim, state_dim = shape
    heads = groups * of_group
    values, of = heads * head_dim, np.arange(heads) // of_group
    width = values + 2 * groups * state_dim
    stride = width + int(rng.choice([0, 3]))
    rows = np.full((n, stride), np.nan, np.float32)
    rows[:, :width] = floats(rng, n, width)
    decay, dt = (rng.uniform(0, 1, (n, heads)).astype(np.float32) for _ in range(2))
    skip, start = floats(rng, heads), floats(rng, heads, head_dim, state_dim)
    state, size = decode(start), abs(decode(start))
    outs, sizes = [], []
    for t in range(n):
        row, g, step = decode(rows[t, :width]), decode(decay[t]), decode(dt[t])
        u = row[:values].reshape(heads, head_dim)
        b, c = row[values:].reshape(2, groups, state_dim)[:, of]
        added = np.einsum("h,hv,hk->hvk", step, u, b)
        state = g[:, None, None] * state + added
        size = g[:, None, None] * size + abs(added)
        outs.append(np.einsum("hvk,hk->hv", state, c) + decode(skip)[:, None] * u)
        sizes.append(np.einsum("hvk,hk->hv", size, abs(c)) + abs(decode(skip)[:, None] * u))
    args = [
        start,
        rows.reshape(-1)[: (n - 1) * stride + width],
        *[decay, dt, skip, Out(np.stack(outs), np.stack(sizes)), Out(state, size)],
        *[n, heads, groups, head_dim, stride],
    ]
    constants = {} if state_dim == 128 else {"Dk": state_dim}
    threads = int(rng.choice([n for n in THREADS if n <= 256]))
    grid = heads * -(-head_dim // 2) * 32
    return Case("state_space_f32", args, grid, threads, constants, f"{shape}")


def group_norm_gated_f32(rng: Generator, shape: Shape) -> Case:
    n, groups, width = shape
    values, z, weight = wide(rng, *shape), wide(rng, *shape), floats(rng, groups, width)
    y = decode(values) * oracles.silu(decode(z))
    expected = oracles.rms_norm(y, decode(weight), 1e-6)
    out = Out(expected, abs(expected) * (1 + abs(decode(z))))  # silu's exponent
    threads = int(rng.choice(THREADS))
    args = [values, z, weight, out, n, groups, width, 1e-6]
    return Case("group_norm_gated_f32", args, n * groups * threads, threads, text=f"{shape}")


KERNELS: dict[str, Family] = {
    "gated_convolution_f32": Family(gated_convolution_f32, CONV, draw_conv),
    "group_norm_gated_f32": Family(group_norm_gated_f32, NORM, draw_norm),
    "state_space_f32": Family(state_space_f32, SPACE, draw_space),
    "state_space_steps_f32": Family(state_space_steps_f32, GATES, draw_gates),
}
