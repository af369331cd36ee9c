"""Plain float64 forward pass of every family, straight from the files.

Whole sequence at a time, no cache, no chunking: short enough to check against the papers and the
public implementations by eye. It shares no code with the engine it judges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import gemma, nemotron
from .checkpoint import Checkpoint
from .families import layer_types

Array = np.ndarray


@dataclass
class Trace:
    """What one forward pass over T tokens computed. Per-layer dicts; expert ids ascend."""

    logits: Array  # [T, vocab]
    hidden: dict[int, Array] = field(default_factory=dict)  # [T, hidden] after the layer
    router_logits: dict[int, Array] = field(default_factory=dict)  # [T, n_experts]
    expert_ids: dict[int, Array] = field(default_factory=dict)  # [T, top_k]
    expert_weights: dict[int, Array] = field(default_factory=dict)  # [T, top_k]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def softmax(x: Array) -> Array:
    exponent = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight


def rope_frequencies(text: dict[str, Any], rotary_dim: int) -> tuple[Array, float]:
    """(angle per position [rotary_dim/2], multiplier of cos and sin); YaRN if configured."""
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    theta = rope.get("rope_theta") or text["rope_theta"]
    inverse = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    if rope.get("rope_type", rope.get("type", "default")) == "default":
        return inverse, 1.0
    factor, original = rope["factor"], rope.get("original_max_position_embeddings")
    original = text.get("original_max_position_embeddings") or original
    original = original or text["max_position_embeddings"]

    def corner(rotations: float) -> float:
        turns = math.log(original / (rotations * 2 * math.pi))
        return rotary_dim * turns / (2 * math.log(theta))

    low, high = corner(rope.get("beta_fast") or 32), corner(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    span = high - low if high != low else 0.001
    ramp = np.clip((np.arange(rotary_dim // 2) - low) / span, 0, 1)
    numerator, denominator = rope.get("mscale"), rope.get("mscale_all_dim")
    if not (numerator and denominator):
        numerator, denominator = 1, 0
    logs = [1 + 0.1 * m * math.log(factor) for m in (numerator, denominator)]
    scale = rope.get("attention_factor", logs[0] / logs[1])
    return inverse / factor * ramp + inverse * (1 - ramp), scale


def rotate(x: Array, frequencies: Array, scale: float) -> Array:
    """RoPE on the first 2*len(frequencies) channels of x [T, heads, dim], halves paired."""
    half = len(frequencies)
    angle = (np.arange(len(x))[:, None] * frequencies)[:, None, :]
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    a, b = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)


class Reference:
    """A decoder over one checkpoint folder."""

    def __init__(self, folder: Path | str) -> None:
        self.files = Checkpoint(folder)
        self.text = text = self.files.text
        self.family = self.files.family
        self.gated = self.family.gated_attention
        zero_centred = self.family.zero_centred_norms and not self.files.is_mlx
        self.norm_offset = 1.0 if zero_centred else 0.0
        rope = text.get("rope_parameters") or {}
        part = rope.get("partial_rotary_factor", text.get("partial_rotary_factor", 1.0))
        rotary = text.get("rotary_dim", int(text["head_dim"] * part))
        has_one = self.family.rotated and not self.family.sandwich
        self.rope = rope_frequencies(text, rotary) if has_one else None
        self.ranks: dict[int, Array] = {}  # [T, E] that the last forward chose by, by layer

    def forward(self, tokens: list[int]) -> Trace:
        """Run all tokens from position 0."""
        trace = Trace(logits=np.empty(0))
        x = self.files.get(f"{self.family.embedding}.weight")[np.asarray(tokens)]
        if self.family.sandwich:
            x = x * math.sqrt(x.shape[1])
        for layer, kind in enumerate(layer_types(self.text)):
            base = f"layers.{layer}"
            if self.family.pattern:
                h = self._norm(x, f"{base}.{self.family.norms[0]}")
                x = trace.hidden[layer] = x + self._block(kind, layer, h, trace)
                continue
            if self.family.sandwich:
                attended = gemma.attention(
                    self, layer, self._norm(x, f"{base}.input_layernorm"), rotate, softmax
                )
                x = x + self._norm(attended, f"{base}.post_attention_layernorm")
                x = x + gemma.network(self, layer, x, trace)
                x = trace.hidden[layer] = x * self.files.get(f"{base}.layer_scalar")
                continue
            first, second = self.family.norms
            h = self._norm(x, f"{base}.{first}")
            x = x + self._mixer(layer)(layer, h)
            h = self._norm(x, f"{base}.{second}")
            sparse = self.files.has(f"{base}.{self.family.inside}{self.family.router}.weight")
            x = x + (self._moe(layer, h, trace) if sparse else self._dense(base, h))
            trace.hidden[layer] = x
        trace.logits = self._norm(x, self.family.final_norm) @ self.files.head().T
        if cap := self.text.get("final_logit_softcapping"):
            trace.logits = cap * np.tanh(trace.logits / cap)
        return trace

    def _block(self, kind: str, layer: int, x: Array, trace: Trace) -> Array:
        """What a layer of one part adds."""
        if kind == "M":
            return nemotron.mamba(self, f"layers.{layer}.mixer", x)
        if kind == "*":
            return self._attention(layer, x)
        return self._moe(layer, x, trace) if kind == "E" else self._dense(f"layers.{layer}", x)

    def _mixer(self, layer: int) -> Callable[[int, Array], Array]:
        if self.files.has(f"layers.{layer}.linear_attn.A_log"):
            return self._delta_net
        if self.files.has(f"layers.{layer}.conv.conv.weight"):
            return self._convolution
        return self._latent_attention if self.family.latent else self._attention

    def _norm(self, x: Array, name: str) -> Array:
        weight = self.files.get(f"{name}.weight") + self.norm_offset
        return rms_norm(x, weight, self.text[self.family.eps])

    def _linear(self, x: Array, name: str) -> Array:
        y = x @ self.files.get(f"{name}.weight").T
        return y + self.files.get(f"{name}.bias") if self.files.has(f"{name}.bias") else y

    def _attention(self, layer: int, x: Array) -> Array:
        text, p, n = self.text, f"layers.{layer}.{self.family.attention}", len(x)
        heads, kv_heads, dim = (
            text[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        q, k, v = (self._linear(x, f"{p}.{name}_proj") for name in "qkv")
        if self.family.whole_norms:
            q, k = self._head_norm(q, p, "q"), self._head_norm(k, p, "k")
        q = q.reshape(n, heads, -1)
        q, gate = q[..., :dim], q[..., dim:]  # gate is empty unless the family has one
        k, v = k.reshape(n, kv_heads, dim), v.reshape(n, kv_heads, dim)
        by_head = self.family.normed_heads and not self.family.whole_norms
        if by_head and text.get("use_qk_norm", True):
            q, k = self._head_norm(q, p, "q"), self._head_norm(k, p, "k")
        if self.rope is not None:
            q, k = rotate(q, *self.rope), rotate(k, *self.rope)
        k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) * dim**-0.5
        seen = np.tri(n, dtype=bool)
        if layer_types(text)[layer] == "sliding_attention":
            seen &= ~np.tri(n, k=-text["sliding_window"], dtype=bool)
        scores = np.where(seen, scores, -np.inf)
        if self.family.sinks:
            sinks = np.broadcast_to(self.files.get(f"{p}.sinks")[:, None, None], (heads, n, 1))
            scores = np.concatenate([scores, sinks], axis=2)
        out = np.einsum("hij,jhd->ihd", softmax(scores)[..., :n], v)
        if self.gated:
            out = out * sigmoid(gate)
        return self._linear(out.reshape(n, -1), f"{p}.{self.family.attention_out}")

    def _head_norm(self, x: Array, p: str, which: str) -> Array:
        return self._norm(x, f"{p}.{self.family.head_norms.format(which)}")

    def _convolution(self, layer: int, x: Array) -> Array:
        p, n = f"layers.{layer}.conv", len(x)
        b, c, u = np.split(self._linear(x, f"{p}.in_proj"), 3, axis=1)
        taps = self.files.get(f"{p}.conv.weight").reshape(x.shape[1], -1)  # [H, kernel]
        padded = np.concatenate([np.zeros((taps.shape[1] - 1, x.shape[1])), b * u])
        y = sum(padded[j : j + n] * taps[:, j] for j in range(taps.shape[1]))
        if self.files.has(f"{p}.conv.bias"):
            y = y + self.files.get(f"{p}.conv.bias")
        return self._linear(c * y, f"{p}.out_proj")

    def _latent_attention(self, layer: int, x: Array) -> Array:
        text, p, n = self.text, f"layers.{layer}.self_attn", len(x)
        heads, rank = text["num_attention_heads"], text["kv_lora_rank"]
        nope, rope = text["qk_nope_head_dim"], text["qk_rope_head_dim"]
        if self.files.has(f"{p}.q_a_proj.weight"):
            q = self._linear(x, f"{p}.q_a_proj")
            q = rms_norm(q, self.files.get(f"{p}.q_a_layernorm.weight"), 1e-6)
            q = self._linear(q, f"{p}.q_b_proj")
        else:
            q = self._linear(x, f"{p}.q_proj")
        q = q.reshape(n, heads, nope + rope)
        both = self._linear(x, f"{p}.kv_a_proj_with_mqa")
        latent = rms_norm(both[:, :rank], self.files.get(f"{p}.kv_a_layernorm.weight"), 1e-6)
        kv = self._linear(latent, f"{p}.kv_b_proj").reshape(n, heads, -1)

        def turn(pairs: Array) -> Array:  # channels 2 i and 2 i + 1 are a pair
            return rotate(np.concatenate([pairs[..., ::2], pairs[..., 1::2]], -1), *self.rope)

        q = np.concatenate([q[..., :nope], turn(q[..., nope:])], axis=-1)
        one = turn(both[:, None, rank:]).repeat(heads, axis=1)
        k = np.concatenate([kv[..., :nope], one], axis=-1)
        yarn = text.get("rope_scaling") or text.get("rope_parameters") or {}
        sharper = 1 + 0.1 * yarn.get("mscale_all_dim", 0) * math.log(yarn.get("factor", 1))
        if yarn.get("llama_4_scaling_beta"):
            steps = np.arange(n) // yarn["original_max_position_embeddings"]
            q = q * (1 + yarn["llama_4_scaling_beta"] * np.log1p(steps))[:, None, None]
        scores = np.einsum("ihd,jhd->hij", q, k) * (nope + rope) ** -0.5 * sharper**2
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        out = np.einsum("hij,jhd->ihd", softmax(scores), kv[..., nope:])
        return self._linear(out.reshape(n, -1), f"{p}.o_proj")

    def _delta_net_inputs(self, p: str, x: Array) -> tuple[Array, Array, Array, Array]:
        """(q|k|v channels [T, C], z [T, Hv, dv], b [T, Hv], a [T, Hv])."""
        text, n = self.text, len(x)
        n_key, n_value = text["linear_num_key_heads"], text["linear_num_value_heads"]
        key_dim, value_dim = text["linear_key_head_dim"], text["linear_value_head_dim"]
        if not self.family.split_delta_net:  # rows grouped by key head
            grouped = self._linear(x, f"{p}.in_proj_qkvz").reshape(n, n_key, -1)
            v_rows = n_value // n_key * value_dim
            edges = [key_dim, 2 * key_dim, 2 * key_dim + v_rows]
            q, k, v, z = (t.reshape(n, -1) for t in np.split(grouped, edges, axis=2))
            ba = self._linear(x, f"{p}.in_proj_ba").reshape(n, n_key, -1)
            b, a = (t.reshape(n, -1) for t in np.split(ba, 2, axis=2))
            qkv = np.concatenate([q, k, v], axis=1)
        else:
            qkv, z, b, a = (self._linear(x, f"{p}.in_proj_{t}") for t in ("qkv", "z", "b", "a"))
        return qkv, z.reshape(n, n_value, value_dim), b, a

    def _delta_net(self, layer: int, x: Array) -> Array:
        text, p, n = self.text, f"layers.{layer}.linear_attn", len(x)
        n_key, n_value = text["linear_num_key_heads"], text["linear_num_value_heads"]
        key_dim, value_dim = text["linear_key_head_dim"], text["linear_value_head_dim"]
        qkv, z, b, a = self._delta_net_inputs(p, x)
        taps = self.files.get(f"{p}.conv1d.weight").reshape(qkv.shape[1], -1)  # [C, kernel]
        padded = np.concatenate([np.zeros((taps.shape[1] - 1, qkv.shape[1])), qkv])
        qkv = silu(sum(padded[j : j + n] * taps[:, j] for j in range(taps.shape[1])))
        q, k, v = np.split(qkv, [n_key * key_dim, 2 * n_key * key_dim], axis=1)
        q, k = (t.reshape(n, n_key, key_dim) for t in (q, k))
        q, k = (t / np.sqrt((t * t).sum(axis=-1, keepdims=True) + 1e-6) for t in (q, k))
        q, k = (np.repeat(t, n_value // n_key, axis=1) for t in (q * key_dim**-0.5, k))
        v = v.reshape(n, n_value, value_dim)
        rate = np.exp(self.files.get(f"{p}.A_log"))
        decay = np.exp(-rate * np.logaddexp(0, a + self.files.get(f"{p}.dt_bias")))
        beta = sigmoid(b)
        state = np.zeros((n_value, key_dim, value_dim))
        out = np.empty_like(v)
        for t in range(n):  # decay, read, write, then output from the new state
            state = state * decay[t][:, None, None]
            delta = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", state, k[t]))
            state = state + k[t][:, :, None] * delta[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", state, q[t])
        weight = self.files.get(f"{p}.norm.weight")  # never zero-centred
        out = rms_norm(out, weight, text["rms_norm_eps"]) * silu(z)
        return self._linear(out.reshape(n, -1), f"{p}.out_proj")

    def _dense(self, base: str, x: Array) -> Array:
        names = self.family.matrices if self.files.is_mlx else self.family.dense_names
        return self._network(f"{base}.{self.family.dense}", x, names)

    def _network(self, base: str, x: Array, names: tuple[str, ...]) -> Array:
        *inner, down = (f"{base}.{name}" for name in names)
        return self._linear(self._glu(*(self._linear(x, name) for name in inner)), down)

    def _glu(self, gate: Array, up: Array | float = 1.0) -> Array:
        if not self.family.gated:
            return np.maximum(gate, 0) ** 2
        if self.family.sandwich:
            return gemma.gelu(gate) * up
        if not self.family.clamped:
            return silu(gate) * up
        limit = self.text["swiglu_limit"]
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        return (up + 1) * gate * sigmoid(1.702 * gate)

    def choose(self, layer: int, logits: Array) -> tuple[Array, Array]:
        """(expert ids [T, K] ascending, scores [T, E]) of router logits [T, E]."""
        family, top_k = self.family, self.text[self.family.top_k]
        scores = softmax(logits) if family.score == "softmax" else sigmoid(logits)
        ranks = logits  # of which scores have the order
        if family.selection_bias:
            bias = self.files.get(f"layers.{layer}.{family.inside}{family.selection_bias}")
            ranks = self._best_groups(scores + bias)
        elif self.text.get("n_group", 1) > 1:
            ranks = self._best_groups(scores)
        self.ranks[layer] = ranks
        return np.sort(np.argsort(-ranks, axis=1, kind="stable")[:, :top_k], axis=1), scores

    def _best_groups(self, ranks: Array) -> Array:
        """Ranks [T, E], -inf outside the groups whose two best sum to the most."""
        n_groups, kept = self.text.get("n_group", 1), self.text.get("topk_group", 1)
        groups = ranks.reshape(len(ranks), n_groups, -1)
        worth = np.sort(groups, axis=2)[..., -2:].sum(axis=2)
        best = np.argsort(-worth, axis=1, kind="stable")[:, :kept]
        open_groups = np.zeros_like(worth, dtype=bool)
        np.put_along_axis(open_groups, best, True, axis=1)
        return np.where(open_groups[..., None], groups, -np.inf).reshape(ranks.shape)

    def _weights(self, layer: int, scores: Array, ids: Array) -> Array:
        family, weights = self.family, np.take_along_axis(scores, ids, axis=1)
        if family.normalised or self.text.get("norm_topk_prob", False):
            weights = weights / (weights.sum(axis=1, keepdims=True) + family.sum_eps)
        if family.sandwich:
            weights = weights * self.files.get(f"layers.{layer}.router.per_expert_scale")[ids]
        return weights * (self.text[family.factor] if family.factor else 1)

    def _route(self, layer: int, x: Array, trace: Trace) -> tuple[Array, Array]:
        """(expert ids [T, K] ascending, weights [T, K])."""
        logits = self._linear(x, f"layers.{layer}.{self.family.inside}{self.family.router}")
        ids, scores = self.choose(layer, logits)
        weights = self._weights(layer, scores, ids)
        trace.router_logits[layer], trace.expert_ids[layer] = logits, ids.astype(np.int32)
        trace.expert_weights[layer] = weights
        return ids, weights

    def _moe(self, layer: int, x: Array, trace: Trace) -> Array:
        base = f"layers.{layer}.{self.family.inside}"
        is_latent = self.files.has(f"{base}fc1_latent_proj.weight")
        seen = self._linear(x, f"{base}fc1_latent_proj") if is_latent else x
        y = self._routed(layer, seen, *self._route(layer, x, trace))
        if is_latent:
            y = self._linear(y, f"{base}fc2_latent_proj")
        shared = f"{base}{self.family.shared}"
        if self.files.has(f"{shared}.up_proj.weight"):
            gate = sigmoid(self._linear(x, f"{shared}_gate")) if self.family.shared_gated else 1
            y = y + gate * self._network(shared, x, self.family.matrices)
        return y

    def _routed(self, layer: int, x: Array, ids: Array, weights: Array) -> Array:
        """The weighted sum of the experts."""
        y = np.zeros_like(x)
        for expert in np.unique(ids):
            *inner, down = self.files.expert(layer, int(expert))
            rows, column = np.nonzero(ids == expert)
            bias = self.files.expert_biases(layer, int(expert))
            hidden = self._glu(*(x[rows] @ w.T + b for w, b in zip(inner, bias, strict=False)))
            out = hidden @ down.T + bias[2]
            y[rows] += weights[rows, column][:, None] * out
        return y
