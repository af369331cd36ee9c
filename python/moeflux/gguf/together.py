"""Fields of a config that several keys of an architecture say together, or tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ..arguments import is_integer, show
from .keys import Keys

# The numbers of a vector by its name; None where there is none. Ones where it is only described.
Read = Callable[[str], Any]
Together = Callable[[Keys, Collection[str], Read], dict[str, Any]]
_NOT_ROTATED = 1e20  # frequencies are divided by as much or more
# Layers and vocabulary of files whose router is a sigmoid's and not said so: GLM-4.7-Flash, with
# and without the layer that predicts a further token.
_SIGMOID_UNSAID = frozenset(((47, 154880), (48, 154880)))
# A tensor by which a layer of Nemotron-H is known, by the letter of its kind.
_PARTS = {"M": "ssm_in", "*": "attn_q", "E": "ffn_gate_inp", "-": "ffn_up"}


def nothing(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """Of most architectures."""
    return {}


def lfm2moe(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """Layers without keys are convolutions."""
    heads = keys.array("attention.head_count_kv")
    if heads is None or len(heads) < keys.n_layers or not all(map(is_integer, heads)):
        raise keys.bad(f"expected {keys.name}.attention.head_count_kv of each of {keys.n_layers} "
                       f"layers, found {show(heads)}")  # fmt: skip
    return {
        "layer_types": ["full_attention" if n else "conv" for n in heads[: keys.n_layers]],
        "conv_bias": any(name.endswith(".shortconv.in_proj.bias") for name in names),
        "use_expert_bias": any(name.endswith(".exp_probs_b.bias") for name in names),
    }


def latent(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """Heads of latent attention; what is cached of them is one head for all in the file."""
    rope = keys.count("rope.dimension_count")
    key, value = (keys.count(f"attention.{part}_length_mla", keys.count(f"attention.{part}_length"))
                  for part in ("key", "value"))  # fmt: skip
    if not 0 < rope < key:
        raise keys.bad(f"expected {keys.name}.rope.dimension_count below the {key} of a key, found "
                       f"{rope}")  # fmt: skip
    return {"num_key_value_heads": keys.count("attention.head_count"), "head_dim": rope,
            "qk_rope_head_dim": rope, "qk_nope_head_dim": key - rope, "v_head_dim": value,
            "partial_rotary_factor": 1.0}  # fmt: skip


def deepseek2(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """The same. A router of which no key tells is a softmax's, but for one model's first files."""
    size = keys.get("block_count"), keys.get("vocab_size")
    if keys.get("expert_gating_func") is None and size not in _SIGMOID_UNSAID:
        raise keys.bad(f"expected {keys.name}.expert_gating_func 2, found none, which means a "
                       "softmax: no other is done")  # fmt: skip
    return latent(keys, names, read)


def nemotron_h(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """The kind of each layer, of which its tensors tell; the width of the heads of Mamba-2."""
    n_layers = keys.n_layers
    kinds = [
        next((kind for kind, part in _PARTS.items() if f"blk.{layer}.{part}.weight" in names), "")
        for layer in range(min(n_layers, len(names)))
    ]
    if "" in kinds or len(kinds) < n_layers:
        raise keys.bad(f"expected one of {', '.join(_PARTS.values())} in each of {n_layers} "
                       f"layers, found none in layer {[*kinds, ''].index('')}")  # fmt: skip
    values, heads = keys.count("ssm.inner_size"), keys.count("ssm.time_step_rank")
    return {
        "hybrid_override_pattern": "".join(kinds),
        "mamba_head_dim": values // heads,  # which `_linear` has looked at
        "use_conv_bias": any(name.endswith(".ssm_conv1d.bias") for name in names),
    }


def mistral4(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """The same, of which a part of a whole head is rotated; queries grow from a position on."""
    original = keys.get("rope.scaling.original_context_length")
    length = keys.get("attention.temperature_length")
    if length != original:
        raise keys.bad(f"expected {keys.name}.attention.temperature_length {show(original)}, as "
                       f"rope.scaling.original_context_length, found {show(length)}")  # fmt: skip
    heads = latent(keys, names, read)
    whole = heads["qk_rope_head_dim"] + heads["qk_nope_head_dim"]
    return heads | {"head_dim": whole, "partial_rotary_factor": heads["qk_rope_head_dim"] / whole}


def gemma4(keys: Keys, names: Collection[str], read: Read) -> dict[str, Any]:
    """Layers with a window and without one: their heads, and what rotates them."""
    slides = keys.array("attention.sliding_window_pattern")
    n_layers = keys.n_layers
    if slides is None or len(slides) < n_layers or all(slides[:n_layers]):
        raise keys.bad(f"expected {keys.name}.attention.sliding_window_pattern of each of "
                       f"{n_layers} layers, one of them without, found {show(slides)}")  # fmt: skip
    kinds = ["sliding_attention" if slide else "full_attention" for slide in slides[:n_layers]]
    full = [layer for layer, slide in enumerate(slides[:n_layers]) if not slide]
    return {
        "layer_types": kinds,
        "num_key_value_heads": _heads(keys, [i for i in range(n_layers) if slides[i]] or full),
        "num_global_key_value_heads": _heads(keys, full),
        "attention_k_eq_v": any(f"blk.{layer}.attn_v.weight" not in names for layer in full),
        "hidden_size_per_layer_input": keys.count("embedding_length_per_layer_input", 0),
        "num_kv_shared_layers": keys.count("attention.shared_kv_layers", 0),
        "rope_parameters": {
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": _theta(keys, "rope.freq_base_swa"),
                "partial_rotary_factor": _part(keys, "_swa"),
            },
            "full_attention": {
                "rope_theta": _theta(keys, "rope.freq_base"),
                **_proportional(keys, read("rope_freqs.weight")),
            },
        },
    }


def _heads(keys: Keys, layers: list[int]) -> int:
    """Heads of keys that some layers have in common."""
    listed = keys.array_or_one("attention.head_count_kv")
    if not isinstance(listed, list):
        return keys.count("attention.head_count_kv")
    found = {listed[layer] for layer in layers if layer < len(listed)}
    if len(found) != 1 or len(listed) <= max(layers) or not all(map(is_integer, found)):
        raise keys.bad(f"expected one {keys.name}.attention.head_count_kv for layers {layers[:8]}, "
                       f"found {show(sorted(found))}")  # fmt: skip
    return int(found.pop())


def _theta(keys: Keys, key: str) -> Any:
    found = keys.get(key)
    if found is None:
        raise keys.bad(f"expected {keys.name}.{key}, found none")
    return found


def _part(keys: Keys, suffix: str) -> float:
    """The share of a head's channels that are rotated."""
    head_dim = max(keys.count(f"attention.key_length{suffix}"), 1)
    return keys.count(f"rope.dimension_count{suffix}", head_dim) / head_dim


def _proportional(keys: Keys, divisors: Any) -> dict[str, Any]:
    """The kind of rotation that divisors of its frequencies make of it."""
    if divisors is None:
        return {"rope_type": "default", "partial_rotary_factor": _part(keys, "")}
    n_pairs = keys.count("attention.key_length") // 2
    is_rotated = divisors == 1
    count = int(is_rotated.sum())
    fits = is_rotated[:count].all() and (divisors[count:] >= _NOT_ROTATED).all()
    if len(divisors) != n_pairs or not fits or _part(keys, "") != 1:
        raise keys.bad(f"expected {n_pairs} ones and then numbers over {_NOT_ROTATED} in "
                       f"rope_freqs.weight, for all pairs of a head, found {len(divisors)}, "
                       f"{count} of them ones")  # fmt: skip
    return {"rope_type": "proportional", "partial_rotary_factor": count / n_pairs}
