"""Dispatches of the norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import oracles
from .case import Array, Build, Case, Family, Generator, Out, Shape, bf16, decode, floats
from .cases_elementwise import DIMS, draw_dim, geometry, wide
from .cases_matvec import THREADS

HEADS = [(1, 128), (2, 32), (16, 128), (3, 1), (5, 31), (4, 33), (1, 1025), (7, 256), (32, 96)]


def draw_heads(rng: Generator) -> Shape:
    return int(rng.integers(1, 9)), int(rng.integers(1, 600))


def per_head(rng: Generator, heads: int) -> tuple[int, int]:
    """Grid and threadgroup, one for each head."""
    threads = int(rng.choice(THREADS))
    return threads * heads, threads


def rms_norm_sum_sq(rng: Generator, shape: Shape) -> Case:
    (dim,) = shape
    x = floats(rng, dim, size=float(rng.choice([1e-3, 1, 100])))
    out = Out(np.sum(decode(x) ** 2, keepdims=True))
    return Case("rms_norm_sum_sq", [x, out, dim], *per_head(rng, 1), text=f"dim={dim}")


def rms_norm_apply(kernel: str, encode: Callable[[Array], Array]) -> Build:
    def build(rng: Generator, shape: Shape) -> Case:
        (dim,) = shape
        x, weight, eps = floats(rng, dim), encode(floats(rng, dim)), float(rng.choice([1e-6, 1e-5]))
        sum_sq = np.sum(x * x, keepdims=True)  # an input like any other
        out = Out(decode(x) / np.sqrt(decode(sum_sq) / dim + eps) * decode(weight))
        args = [x, weight, sum_sq, out, dim, eps]
        return Case(kernel, args, *geometry(rng, dim), text=f"dim={dim}")

    return build


def rms_norm_qk(rng: Generator, shape: Shape) -> Case:
    heads, dim = shape
    inv_scale = float(np.float32(dim**-0.5))
    size = float(rng.choice([1e-3, 1, 10]))  # the least makes eps count
    q, k = floats(rng, heads, dim, size=size), floats(rng, heads, dim, size=size)
    q_out, k_out = oracles.rms_norm_qk(decode(q), decode(k), inv_scale)
    args = [Out(q_out, before=q), Out(k_out, before=k), dim, inv_scale]
    return Case("rms_norm_qk", args, *per_head(rng, heads), text=f"heads={heads} dim={dim}")


def gated_rms_norm(rng: Generator, shape: Shape) -> Case:
    heads, dim = shape
    values, z, weight = floats(rng, heads, dim), wide(rng, heads, dim), bf16(floats(rng, dim))
    out = Out(oracles.gated_rms_norm(decode(values), decode(z), decode(weight), 1e-6))
    args = [values, z, weight, out, dim, 1e-6]
    return Case("gated_rms_norm", args, *per_head(rng, heads), text=f"heads={heads} dim={dim}")


KERNELS: dict[str, Family] = {
    "gated_rms_norm": Family(gated_rms_norm, HEADS, draw_heads),
    "rms_norm_apply": Family(rms_norm_apply("rms_norm_apply", np.asarray), DIMS, draw_dim),
    "rms_norm_apply_bf16": Family(rms_norm_apply("rms_norm_apply_bf16", bf16), DIMS, draw_dim),
    "rms_norm_qk": Family(rms_norm_qk, HEADS, draw_heads),
    "rms_norm_sum_sq": Family(rms_norm_sum_sq, DIMS, draw_dim),
}
