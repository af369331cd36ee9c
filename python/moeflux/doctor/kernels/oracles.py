"""What each kernel computes: numpy, float64, no blocking, no kernel's structure.

Array arguments hold values (bf16 already decoded); shapes as design and shaders state them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def relu2(x: Array) -> Array:
    return np.maximum(x, 0) ** 2


def softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def rms(x: Array, eps: float) -> Array:
    """sqrt(mean of squares + eps) along the last axis, which stays."""
    return np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


# ---- matrices ----------------------------------------------------------------------------------


def dequantize(words: Array, scales: Array, biases: Array, bits: int) -> Array:
    """Words u32 (out, in*bits/32), a row being one stream of bits, low end first -> (out, in)."""
    stream = np.unpackbits(words.astype("<u4").view(np.uint8), axis=-1, bitorder="little")
    codes = stream.reshape(*scales.shape, -1, bits) @ (1 << np.arange(bits))
    return (codes * scales[..., None] + biases[..., None]).reshape(len(words), -1)


def dequant_matvec(words: Array, scales: Array, biases: Array, x: Array, bits: int) -> Array:
    """Words u32 (out, in*bits/32), scales and biases (out, in/group), x (in) -> (out)."""
    return dequantize(words, scales, biases, bits) @ x


def dequant_matvec_size(words: Array, scales: Array, biases: Array, x: Array, bits: int) -> Array:
    """Sum of the magnitudes that a kernel adds up: what rounding errors are relative to."""
    return dequantize(words, np.abs(scales), np.abs(biases), bits) @ np.abs(x)


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
    state: Array, q: Array, k: Array, v: Array, g: Array, beta: Array, *, k_heads_per_v: int
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


def moe_combine(
    h_mid: Array, shared: Array, experts: Array, weights: Array, *, gate: Array
) -> Array:
    """h_mid, shared (dim), experts (K, dim), weights (K), gate (): the shared expert's score."""
    return h_mid + weights @ experts + sigmoid(gate) * shared


# ---- the engine's kernels ----------------------------------------------------------------------


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Along the last axis."""
    return x / rms(x, eps) * weight


def l2_norm(x: Array, scale: float, eps: float) -> Array:
    """Along the last axis."""
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + eps) * scale


def rope(x: Array, inv_freq: Array, first: int, scale: float) -> Array:
    """Rows (n, heads, head_dim), row r at position first + r; 2 * len(inv_freq) channels turn.

    Angles are products of float32, as in the models' own code; all else is float64.
    """
    half = len(inv_freq)
    positions = np.arange(first, first + len(x)).astype(np.float32)
    angles = (positions[:, None] * inv_freq.astype(np.float32)).astype(np.float64)[:, None]
    cosine, sine = np.cos(angles) * scale, np.sin(angles) * scale
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)


def attention(q: Array, keys: Array, values: Array, first: int, scale: float) -> Array:
    """Causal: q (n, H, D) at positions first.., keys, values (first + n, Hkv, D) -> (n, H, D)."""
    of = np.arange(q.shape[1]) // (q.shape[1] // keys.shape[1])
    scores = scale * np.einsum("thd,phd->thp", q, keys[:, of])
    visible = np.arange(len(keys)) <= first + np.arange(len(q))[:, None]
    weights = softmax(np.where(visible[:, None], scores, -np.inf))
    return np.einsum("thp,phd->thd", weights, values[:, of])


def conv1d(history: Array, x: Array, weights: Array) -> tuple[Array, Array]:
    """History (K-1, C), x (n, C), weights (C, K) -> y (n, C), new history."""
    rows = []
    for row in x:
        out, history = conv1d_step(history, row, weights)
        rows.append(out)
    return np.stack(rows), history


@dataclass(frozen=True)
class Steps:
    """A router's, for one row of logits; None: no such step. bias, factors: (E)."""

    k: int
    sigmoid: bool = False
    bias: Array | None = None
    n_groups: int = 1
    top_groups: int = 1
    normalise: bool = False
    sum_eps: float = 0.0
    factor: float = 1.0
    factors: Array | None = None

    def ranks(self, logits: Array) -> tuple[Array, Array]:
        """Scores (E), and what groups are chosen by: the ranks, by group."""
        scores = sigmoid(logits) if self.sigmoid else softmax(logits)
        ranks = scores + (0 if self.bias is None else self.bias)
        return scores, ranks.reshape(self.n_groups, -1)

    def route(self, logits: Array) -> tuple[Array, Array]:
        """Experts, ascending, and their weights; ties take the lower number."""
        scores, grouped = self.ranks(logits)
        if self.bias is None and self.n_groups == 1:  # the order of scores, without their rounding
            grouped = logits[None]
        if self.n_groups > 1:
            worth = np.sort(grouped, axis=1)[:, -2:].sum(axis=1)
            left_out = np.argsort(-worth, kind="stable")[self.top_groups :]
            grouped = grouped.copy()
            grouped[left_out] = -np.inf
        chosen = np.sort(np.argsort(-grouped.reshape(-1), kind="stable")[: self.k])
        weights = scores[chosen]
        if self.normalise:
            weights = weights / (weights.sum() + self.sum_eps)
        weights = weights * self.factor
        return chosen, weights if self.factors is None else weights * self.factors[chosen]
