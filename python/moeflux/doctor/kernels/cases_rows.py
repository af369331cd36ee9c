"""Dispatches of the engine's norms, and of kernels that move or add rows."""

from __future__ import annotations

import numpy as np

from . import oracles
from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry, wide
from .cases_matvec import THREADS
from .cases_norm import HEADS, draw_heads, gated_rms_norm, per_head

LENGTHS = [(1, 1, 128), (3, 16, 128), (2, 2, 33), (5, 4, 32), (1, 3, 1025)]  # (n, heads, dim)
MOVES = [(1, 1, 1), (3, 5, 64), (7, 7, 33), (16, 4, 256)]  # (n, rows of the other side, dim)
COMBINES = [(1, 1, 1), (2, 8, 64), (3, 10, 33), (5, 0, 7), (1, 16, 2048)]  # (n, top_k, dim)


def draw_three(rng: Generator) -> Shape:
    return int(rng.integers(1, 6)), int(rng.integers(1, 9)), int(rng.integers(1, 200))


def rms_norm_f32(rng: Generator, shape: Shape) -> Case:
    n, dim = shape
    x, weight = floats(rng, n, dim, size=float(rng.choice([1e-3, 1, 50]))), floats(rng, dim)
    out = Out(oracles.rms_norm(decode(x), decode(weight), 1e-6))
    args = [x, weight, out, dim, 1e-6]
    return Case("rms_norm_f32", args, *per_head(rng, n), text=f"n={n} dim={dim}")


def gated_rms_norm_f32(rng: Generator, shape: Shape) -> Case:
    case = gated_rms_norm(rng, shape)
    values, z, _, _, dim, eps = case.args
    weight = floats(rng, dim)
    out = Out(oracles.gated_rms_norm(decode(values), decode(z), decode(weight), eps))
    case.kernel, case.args = "gated_rms_norm_f32", [values, z, weight, out, dim, eps]
    return case


def strided(rng: Generator, n: int, width: int) -> tuple[Array, int]:
    """(n, stride) NaN, of which the first `width` columns are to be filled; the last row is cut."""
    stride = width + int(rng.choice([0, 1, 40]))
    return np.full((n, stride), np.nan, np.float32), stride


def cut(array: Array, width: int) -> Array:
    """What a kernel may assume of a strided array: nothing behind the last row's columns."""
    return array.reshape(-1)[: (len(array) - 1) * array.shape[1] + width]


def l2_norm_f32(rng: Generator, shape: Shape) -> Case:
    n, heads, dim = shape
    x, stride = strided(rng, n, heads * dim)
    x[:, : heads * dim] = floats(rng, n, heads * dim, size=float(rng.choice([1e-3, 1, 50])))
    scale = float(np.float32(dim**-0.5))
    expected = decode(x)
    inside = decode(x[:, : heads * dim]).reshape(n, heads, dim)
    expected[:, : heads * dim] = oracles.l2_norm(inside, scale, 1e-6).reshape(n, -1)
    out = Out(cut(expected, heads * dim), before=cut(x, heads * dim))
    args = [out, n, heads, dim, stride, scale, 1e-6]
    threads = int(rng.choice(THREADS))
    return Case("l2_norm_f32", args, n * heads * threads, threads, text=f"{shape}")


def gather_rows_f32(rng: Generator, shape: Shape) -> Case:
    n, there, dim = shape
    x, rows = floats(rng, there, dim), rng.integers(0, there, n).astype(np.uint32)
    rows[int(rng.integers(0, n))] = there - 1
    args = [x, rows, Out(decode(x[rows])), dim, n]
    return Case("gather_rows_f32", args, *geometry(rng, n * dim), text=f"{shape}")


def scatter_rows_f32(rng: Generator, shape: Shape) -> Case:
    n, more, dim = shape
    x, rows = floats(rng, n, dim), rng.permutation(n + more)[:n].astype(np.uint32)
    before = floats(rng, int(rows.max()) + 1, dim)
    expected = decode(before)
    expected[rows] = decode(x)
    args = [x, rows, Out(expected, before=before), dim, n]
    return Case("scatter_rows_f32", args, *geometry(rng, n * dim), text=f"{shape}")


def combined(rng: Generator, shape: Shape) -> tuple[Out, list[Array | None], list[int], str]:
    """A row plus what its experts gave; the other arrays, and the numbers."""
    n, top_k, dim = shape
    has_shared, has_gate = int(rng.integers(0, 2)), int(rng.integers(0, 2))
    x, weights, experts = floats(rng, n, dim), floats(rng, n, top_k), floats(rng, n, top_k, dim)
    shared, gates = floats(rng, n, dim), wide(rng, n)
    gate = oracles.sigmoid(decode(gates)) if has_gate else np.ones(n)
    gate = (gate * has_shared)[:, None]
    terms = (decode(x), decode(weights), decode(experts), decode(shared))
    expected, size = (
        a + np.einsum("tk,tkd->td", b, c) + gate * d for a, b, c, d in (terms, map(np.abs, terms))
    )
    arrays = [
        weights if top_k else None,
        experts if top_k else None,
        shared if has_shared else None,
        gates if has_shared and has_gate else None,
    ]
    numbers = [n, dim, top_k, has_shared, has_gate]
    return Out(expected, size, before=x), arrays, numbers, f"{shape} {has_shared=} {has_gate=}"


def moe_combine_f32(rng: Generator, shape: Shape) -> Case:
    out, arrays, numbers, text = combined(rng, shape)
    adds = int(rng.integers(0, 2))
    assert out.before is not None
    if not adds:  # whatever was there, NaN too
        out = Out(out.expected - decode(out.before), out.size, np.full_like(out.before, np.nan))
    grid = geometry(rng, shape[0] * shape[2])
    text += f" {adds=}"
    return Case("moe_combine_f32", [out, *arrays, *numbers, adds], *grid, text=text)


def normed(of: Out, weight: Array) -> Out:
    """The norm of a sum, whose error is relative to what went into it."""
    assert of.size is not None
    out = oracles.rms_norm(of.expected, decode(weight), 1e-6)
    scale = 1 / np.sqrt(np.mean(of.expected**2, axis=1, keepdims=True) + 1e-6)
    share = np.max(of.size * scale, axis=1, keepdims=True)  # the mean's own error
    return Out(out, np.abs(decode(weight)) * of.size * scale + np.abs(out) * (1 + share))


def moe_combine_norm_f32(rng: Generator, shape: Shape) -> Case:
    out, arrays, numbers, text = combined(rng, shape)
    weight = floats(rng, shape[2])
    args = [out, *arrays, weight, normed(out, weight), *numbers, 1e-6]
    return Case("moe_combine_norm_f32", args, *per_head(rng, shape[0]), text=text)


def residual_norm_f32(rng: Generator, shape: Shape) -> Case:
    n, dim = shape
    x, y = (floats(rng, n, dim, size=float(rng.choice([1e-3, 1, 50]))) for _ in range(2))
    weight = floats(rng, dim)
    out = Out(decode(x) + decode(y), np.abs(decode(x)) + np.abs(decode(y)), before=x)
    args = [out, y, weight, normed(out, weight), dim, 1e-6]
    return Case("residual_norm_f32", args, *per_head(rng, n), text=f"{n=} {dim=}")


KERNELS: dict[str, Family] = {
    "gated_rms_norm_f32": Family(gated_rms_norm_f32, HEADS, draw_heads),
    "gather_rows_f32": Family(gather_rows_f32, MOVES, draw_three),
    "l2_norm_f32": Family(l2_norm_f32, LENGTHS, draw_three),
    "moe_combine_f32": Family(moe_combine_f32, COMBINES, draw_three),
    "moe_combine_norm_f32": Family(moe_combine_norm_f32, COMBINES, draw_three),
    "residual_norm_f32": Family(residual_norm_f32, HEADS, draw_heads),
    "rms_norm_f32": Family(rms_norm_f32, HEADS, draw_heads),
    "scatter_rows_f32": Family(scatter_rows_f32, MOVES, draw_three),
}
