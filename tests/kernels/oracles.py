"""What each kernel of the contract computes: numpy, float64, no blocking, no kernel's structure.

Array arguments hold values (bf16 already decoded); shapes as design and shaders state them.
"""

from __future__ import annotations

import numpy as np

from oracle import affine

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def rms(x: Array, eps: float) -> Array:
    """sqrt(mean of squares + eps) along the last axis, which stays."""
    return np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


# ---- matrices ----------------------------------------------------------------------------------


def dequant_matvec(words: Array, scales: Array, biases: Array, x: Array, bits: int) -> Array:
    """Words u32 (out, in*bits/32), scales and biases (out, in/group), x (in) -> (out)."""
    return affine.dequantize(words, scales, biases, bits) @ x


def dequant_matvec_size(words: Array, scales: Array, biases: Array, x: Array, bits: int) -> Array:
    """Sum of the magnitudes that a kernel adds up: what rounding errors are relative to."""
    return affine.dequantize(words, np.abs(scales), np.abs(biases), bits) @ np.abs(x)


# ---- attention ---------------------------------------------------------------------------------


def attn_scores(q: Array, keys: Array, scale: float, heads_per_kv: int) -> Array:
    """Q (H, D), keys (S, Hkv, D) -> (H, S)."""
    return scale * np.einsum("hd,shd->hs", q, keys[:, np.arange(len(q)) // heads_per_kv])


def softmax(x: Array) -> Array:
    """Along the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attn_values(weights: Array, values: Array, heads_per_kv: int) -> Array:
    """Weights (H, S), values (S, Hkv, D) -> (H, D)."""
    heads = np.arange(len(weights)) // heads_per_kv
    return np.einsum("hs,shd->hd", weights, values[:, heads])


# ---- delta net ---------------------------------------------------------------------------------


def conv1d_step(history: Array, x: Array, weights: Array) -> tuple[Array, Array]:
    """History (K-1, C) oldest first, x (C), weights (C, K) -> out (C), new history."""
    window = np.concatenate([history, x[None]])
    return silu(np.einsum("kc,ck->c", window, weights)), window[1:]


def decay(alpha: Array, a_log: Array, dt_bias: Array) -> Array:
    return np.exp(-np.exp(a_log) * softplus(alpha + dt_bias))


def delta_step(
    state: Array, q: Array, k: Array, v: Array, g: Array, beta: Array, k_heads_per_v: int
) -> tuple[Array, Array]:
    """State (Hv, Dv, Dk), q, k (Hk, Dk), v (Hv, Dv), g, beta (Hv) -> out (Hv, Dv), new state."""
    heads = np.arange(len(v)) // k_heads_per_v
    state = state * g[:, None, None]
    recalled = np.einsum("hvk,hk->hv", state, k[heads])
    delta = (v - recalled) * beta[:, None]
    state = state + np.einsum("hv,hk->hvk", delta, k[heads])
    return np.einsum("hvk,hk->hv", state, q[heads]), state


def rms_norm_qk(q: Array, k: Array, inv_scale: float) -> tuple[Array, Array]:
    return q / rms(q, 1e-6) * inv_scale**2, k / rms(k, 1e-6) * inv_scale


def gated_rms_norm(values: Array, z: Array, weight: Array, eps: float) -> Array:
    return values / rms(values, eps) * weight * silu(z)


# ---- experts -----------------------------------------------------------------------------------


def moe_combine(h_mid: Array, shared: Array, experts: Array, weights: Array, gate: float) -> Array:
    """h_mid, shared (dim), experts (K, dim), weights (K), gate: the shared expert's score."""
    return h_mid + weights @ experts + sigmoid(np.float64(gate)) * shared
