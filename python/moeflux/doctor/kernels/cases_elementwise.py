"""Dispatches of the per-element kernels and of sums over experts."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats

DIMS = [(1,), (2,), (31,), (32,), (33,), (255,), (256,), (257,), (1000,), (7168,)]
ROWS = [(1, 1), (3, 33), (8, 256), (1, 7168), (16, 31), (10, 1024)]  # (K, dim)
EXPERTS = [(k, d) for k in (0, 1, 8, 10, 15, 16) for d in (1, 33, 256)]
MANY = [*ROWS, (0, 5), (17, 40), (64, 257)]


def draw_dim(rng: Generator) -> Shape:
    return (int(rng.integers(1, 3000)),)


def draw_rows(rng: Generator) -> Shape:
    return int(rng.integers(1, 17)), int(rng.integers(1, 400))


def wide(rng: Generator, *shape: int) -> Array:
    """Values of every size up to 1000: exp of half of them overflows or vanishes in f32."""
    x = floats(rng, *shape, size=3)
    extreme = rng.random(shape) < 0.3
    return np.where(extreme, rng.uniform(-1000, 1000, shape), x).astype(np.float32)


def geometry(rng: Generator, work: int) -> tuple[int, int]:
    """A grid that may go past the work, and any threadgroup."""
    return work + int(rng.choice([0, 1, 37])), int(rng.integers(1, 1025))


def residual_add(rng: Generator, shape: Shape) -> Case:
    (dim,) = shape
    a, b = floats(rng, dim), floats(rng, dim)
    out = Out(decode(a) + decode(b))
    return Case("residual_add", [a, b, out, dim], *geometry(rng, dim), text=f"dim={dim}")


def sigmoid_gate(rng: Generator, shape: Shape) -> Case:
    (dim,) = shape
    x, gate = floats(rng, dim), wide(rng, dim)
    out = Out(decode(x) * oracles.sigmoid(decode(gate)), before=x)
    return Case("sigmoid_gate", [out, gate, dim], *geometry(rng, dim), text=f"dim={dim}")


def swiglu_fused(rng: Generator, shape: Shape) -> Case:
    (dim,) = shape
    gate, up = wide(rng, dim), floats(rng, dim)
    out = Out(oracles.silu(decode(gate)) * decode(up))
    return Case("swiglu_fused", [gate, up, out, dim], *geometry(rng, dim), text=f"dim={dim}")


def swiglu_fused_vec4(rng: Generator, shape: Shape) -> Case:
    dim = 4 * shape[0]
    case = swiglu_fused(rng, (dim,))
    case.kernel, case.grid = "swiglu_fused_vec4", shape[0] + int(rng.integers(0, 3))
    return case


def swiglu_fused_batched(rng: Generator, shape: Shape) -> Case:
    rows, dim = shape
    gate, up = wide(rng, rows, dim), floats(rng, rows, dim)
    out = Out(oracles.silu(decode(gate)) * decode(up))
    args = [gate, up, out, dim, rows]
    return Case(
        "swiglu_fused_batched", args, *geometry(rng, rows * dim), text=f"K={rows} dim={dim}"
    )


def weighted_sum(rng: Generator, shape: Shape) -> Case:
    k, dim = shape
    experts, weights = floats(rng, k, dim), floats(rng, k)
    out = Out(decode(weights) @ decode(experts), np.abs(decode(weights)) @ np.abs(decode(experts)))
    args = [experts if k else None, weights if k else None, out, k, dim]
    return Case("weighted_sum", args, *geometry(rng, dim), text=f"K={k} dim={dim}")


def moe_combine_residual(rng: Generator, shape: Shape) -> Case:
    """Unused experts are None or hold NaN, unused weights NaN: none may be read."""
    k, dim = shape
    h_mid, shared, experts = floats(rng, dim), floats(rng, dim), floats(rng, k, dim)
    params = np.full(18, np.nan, np.float32)
    params[:k], params[16] = floats(rng, k), wide(rng, 1)[0]
    values = [decode(a) for a in (h_mid, shared, experts, params[:k])]
    out = Out(
        oracles.moe_combine(*values, gate=params[16]),
        oracles.moe_combine(*map(np.abs, values), gate=params[16]),
    )
    unused = [
        None if rng.random() < 0.7 else np.full(dim, np.nan, np.float32) for _ in range(16 - k)
    ]
    args = [h_mid, shared, out, *experts, *unused, params, dim, k]
    return Case("moe_combine_residual", args, *geometry(rng, dim), text=f"K={k} dim={dim}")


KERNELS: dict[str, Family] = {
    "moe_combine_residual": Family(moe_combine_residual, EXPERTS, draw_rows),
    "residual_add": Family(residual_add, DIMS, draw_dim),
    "sigmoid_gate": Family(sigmoid_gate, DIMS, draw_dim),
    "swiglu_fused": Family(swiglu_fused, DIMS, draw_dim),
    "swiglu_fused_batched": Family(swiglu_fused_batched, ROWS, draw_rows),
    "swiglu_fused_vec4": Family(swiglu_fused_vec4, DIMS, draw_dim),
    "weighted_sum": Family(weighted_sum, MANY, draw_rows),
}
