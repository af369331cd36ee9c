"""Gemma's layers in float64: two sizes of heads, and norms around everything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .reference import Reference, Trace

Array = np.ndarray
Shape = tuple[int, ...]
NORMS = ("pre_feedforward_layernorm", "pre_feedforward_layernorm_2", "post_feedforward_layernorm",
         "post_feedforward_layernorm_1", "post_feedforward_layernorm_2")  # fmt: skip


def sizes(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """The config of the layers of a kind."""
    if kind != "full_attention":
        return config
    n_kv_heads = config["num_global_key_value_heads"] if config["attention_k_eq_v"] else None
    return config | {
        "head_dim": config["global_head_dim"],
        "num_key_value_heads": n_kv_heads or config["num_key_value_heads"],
    }


def shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Tensors of a layer that other families have not."""
    hidden, n_experts = config["hidden_size"], config["num_experts"]
    return (
        {f"{name}.weight": (hidden,) for name in NORMS}
        | {
            "layer_scalar": (1,),
            "router.scale": (hidden,),
            "router.per_expert_scale": (n_experts,),
        }
        | {
            f"mlp.{name}.weight": shape
            for name, shape in zip(
                ("gate_proj", "up_proj", "down_proj"),
                [(config["intermediate_size"], hidden)] * 2
                + [(hidden, config["intermediate_size"])],
                strict=True,
            )
        }
    )


def gelu(x: Array) -> Array:
    """In its form with tanh."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rms(x: Array, eps: float) -> Array:
    """A norm without weights."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def frequencies(text: dict[str, Any], kind: str, dim: int) -> Array:
    """(dim / 2) radians a position."""
    rope = text["rope_parameters"][kind]
    found = rope["rope_theta"] ** (-np.arange(0, dim, 2) / dim)
    if rope["rope_type"] == "proportional":
        found[int(rope["partial_rotary_factor"] * dim // 2) :] = 0
    return found


def attention(ref: Reference, layer: int, x: Array, rotate: Any, softmax: Any) -> Array:
    """What a layer's attention gives."""
    kind = ref.text["layer_types"][layer]
    text, p, n = sizes(ref.text, kind), f"layers.{layer}.self_attn", len(x)
    heads, kv_heads, dim = (
        text[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    q = ref._linear(x, f"{p}.q_proj").reshape(n, heads, dim)
    k = ref._linear(x, f"{p}.k_proj").reshape(n, kv_heads, dim)
    v = k
    if ref.files.has(f"{p}.v_proj.weight"):
        v = ref._linear(x, f"{p}.v_proj").reshape(n, kv_heads, dim)
    v = rms(v, text["rms_norm_eps"])
    turns = frequencies(text, kind, dim)
    q = rotate(ref._norm(q, f"{p}.q_norm"), turns, 1.0)
    k = rotate(ref._norm(k, f"{p}.k_norm"), turns, 1.0)
    k, v = (np.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
    seen = np.tri(n, dtype=bool)
    if kind == "sliding_attention":
        seen &= ~np.tri(n, k=-text["sliding_window"], dtype=bool)
    scores = np.where(seen, np.einsum("ihd,jhd->hij", q, k), -np.inf)
    out = np.einsum("hij,jhd->ihd", softmax(scores), v)
    return ref._linear(out.reshape(n, -1), f"{p}.o_proj")


def network(ref: Reference, layer: int, x: Array, trace: Trace) -> Array:
    """What the layer adds to x behind its attention, before the layer's factor."""
    base, text = f"layers.{layer}", ref.text
    gate, up = (
        ref._linear(ref._norm(x, f"{base}.{NORMS[0]}"), f"{base}.mlp.{name}_proj")
        for name in ("gate", "up")
    )
    dense = ref._linear(gelu(gate) * up, f"{base}.mlp.down_proj")
    dense = ref._norm(dense, f"{base}.post_feedforward_layernorm_1")
    seen = rms(x, text["rms_norm_eps"]) * ref.files.get(f"{base}.router.scale")
    ids, weights = ref._route(layer, seen * text["hidden_size"] ** -0.5, trace)
    routed = ref._routed(layer, ref._norm(x, f"{base}.{NORMS[1]}"), ids, weights)
    routed = ref._norm(routed, f"{base}.post_feedforward_layernorm_2")
    return ref._norm(dense + routed, f"{base}.post_feedforward_layernorm")
