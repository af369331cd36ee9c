"""Which tensors a hub checkpoint has, and how the MLX spelling differs.

Knows names and shapes; knows no values' meaning beyond what a change of layout needs.
"""

from __future__ import annotations

import re

import numpy as np

from . import gemma, nemotron
from .families import FAMILIES, Config, is_sparse, layer_types

Array = np.ndarray
Shape = tuple[int, ...]
CONVOLUTIONS = ("conv1d.weight", "conv.conv.weight")  # ends of names
EXPERT_MATRICES = ("gate_proj", "up_proj", "down_proj")  # of resident and of stacked ones


def hub_shapes(family: str, config: Config) -> dict[str, Shape]:
    """Every tensor of the hub checkpoint with experts apart: name -> shape.

    Names are those on the hub; linear weights are [out, in].
    """
    spec = FAMILIES[family]
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, Shape] = {f"{spec.hub_prefix}{spec.embedding}.weight": (vocab, hidden)}
    for layer, kind in enumerate(layer_types(config)):
        block = _layer_shapes(family, config, kind, is_sparse(config, layer))
        shapes.update({f"{spec.hub_prefix}layers.{layer}.{n}": s for n, s in block.items()})
    shapes[f"{spec.hub_prefix}{spec.final_norm}.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes[f"{spec.hub_head}.weight"] = (vocab, hidden)
    return shapes


def ignorable_shapes(family: str, config: Config) -> dict[str, Shape]:
    """Tensors that hub files carry and a text engine skips: the MTP head, a vision stub."""
    spec, hidden = FAMILIES[family], config["hidden_size"]
    shapes: dict[str, Shape] = {}
    for layer in later_layers(config):
        block = _layer_shapes(family, config, "full_attention", True)
        block |= {"eh_proj.weight": (hidden, 2 * hidden), "enorm.weight": (hidden,)}
        shapes |= {f"{layer}{name}": shape for name, shape in block.items()}
    if not spec.mtp:
        return shapes
    shapes["mtp.fc.weight"] = (hidden, 2 * hidden)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        shapes[f"mtp.{name}.weight"] = (hidden,)
    block = _layer_shapes(family, config | {spec.n_experts: 2}, "full_attention", True)
    shapes.update({f"mtp.layers.0.{name}": shape for name, shape in block.items()})
    if spec.wrapper:
        shapes["model.visual.blocks.0.norm1.weight"] = (32,)
        shapes["model.visual.blocks.0.attn.qkv.weight"] = (96, 32)
    return shapes


def later_layers(config: Config) -> list[str]:
    """What the names of layers begin with that predict more than the next token."""
    first = config.get("num_hidden_layers", 0)
    n = config.get("num_nextn_predict_layers", 0)
    return [f"model.layers.{index}." for index in range(first, first + n)]


def _layer_shapes(family: str, config: Config, kind: str, sparse: bool) -> dict[str, Shape]:
    spec, hidden = FAMILIES[family], config["hidden_size"]
    shapes: dict[str, Shape] = {f"{name}.weight": (hidden,) for name in spec.norms}
    if kind in _MIXERS:
        shapes.update(_MIXERS[kind](family, config))
    elif kind not in nemotron.NETWORKS:
        shapes.update(_attention_shapes(family, config, kind))
    if kind in nemotron.MIXERS:
        return shapes
    if spec.sandwich:
        shapes |= gemma.shapes(config)
    if not sparse:
        width = config["intermediate_size"]
        return shapes | _ffn_shapes(spec.dense, hidden, width, spec.dense_names)
    shapes[f"{spec.inside}{spec.router}.weight"] = (config[spec.n_experts], hidden)
    if spec.selection_bias:
        shapes[f"{spec.inside}{spec.selection_bias}"] = (config[spec.n_experts],)
    latent = config.get("moe_latent_size") or 0
    for expert in range(config[spec.n_experts]):
        base = f"{spec.inside}experts.{expert}"
        shapes |= _ffn_shapes(base, latent or hidden, config[spec.d_ff], spec.experts)
    if latent:
        shapes[f"{spec.inside}fc1_latent_proj.weight"] = (latent, hidden)
        shapes[f"{spec.inside}fc2_latent_proj.weight"] = (hidden, latent)
    if spec.biased_experts:
        shapes[f"{spec.inside}{spec.router}.bias"] = (config[spec.n_experts],)
        outs = (config[spec.d_ff], config[spec.d_ff], hidden)
        for name, out in zip(EXPERT_MATRICES, outs, strict=True):
            shapes[f"{spec.inside}experts.{name}.bias"] = (config[spec.n_experts], out)
    width = config.get(spec.shared_width, 0) * config.get(spec.shared_count, 1)
    if width:
        shapes |= _ffn_shapes(f"{spec.inside}{spec.shared}", hidden, width, spec.matrices)
        if spec.shared_gated:
            shapes[f"{spec.inside}{spec.shared}_gate.weight"] = (1, hidden)
    return shapes


def _ffn_shapes(base: str, hidden: int, width: int, names: tuple[str, ...]) -> dict[str, Shape]:
    shapes = {f"{base}.{name}.weight": (width, hidden) for name in names[:-1]}
    return shapes | {f"{base}.{names[-1]}.weight": (hidden, width)}


def _latent_shapes(config: Config) -> dict[str, Shape]:
    hidden, heads, rank = (
        config[key] for key in ("hidden_size", "num_attention_heads", "kv_lora_rank")
    )
    nope, rope, value = (config[f"{key}_head_dim"] for key in ("qk_nope", "qk_rope", "v"))
    q_rank, q_rows = config["q_lora_rank"], heads * (nope + rope)
    shapes: dict[str, Shape] = {"q_proj.weight": (q_rows, hidden)}
    if q_rank:
        shapes = {
            "q_a_proj.weight": (q_rank, hidden),
            "q_a_layernorm.weight": (q_rank,),
            "q_b_proj.weight": (q_rows, q_rank),
        }
    shapes |= {
        "kv_a_proj_with_mqa.weight": (rank + rope, hidden),
        "kv_a_layernorm.weight": (rank,),
        "kv_b_proj.weight": (heads * (nope + value), rank),
        "o_proj.weight": (hidden, heads * value),
    }
    return {f"self_attn.{name}": shape for name, shape in shapes.items()}


def _attention_shapes(family: str, config: Config, kind: str = "") -> dict[str, Shape]:
    if FAMILIES[family].latent:
        return _latent_shapes(config)
    if FAMILIES[family].sandwich:
        config = gemma.sizes(config, kind)
    spec, hidden, dim = FAMILIES[family], config["hidden_size"], config["head_dim"]
    query_rows = config["num_attention_heads"] * dim
    kv_rows = config["num_key_value_heads"] * dim
    gated = 2 if spec.gated_attention else 1
    out = spec.attention_out
    rows = {"q_proj": gated * query_rows, "k_proj": kv_rows, "v_proj": kv_rows, out: hidden}
    shapes: dict[str, Shape] = {}
    module = spec.attention
    if spec.sinks:
        shapes[f"{module}.sinks"] = (config["num_attention_heads"],)
    if spec.normed_heads:
        for key, count in (("q", query_rows), ("k", kv_rows)):
            norm = f"{module}.{spec.head_norms.format(key)}.weight"
            shapes[norm] = (count if spec.whole_norms else dim,)
    if spec.sandwich and kind == "full_attention" and config["attention_k_eq_v"]:
        del rows["v_proj"]
    for name, count in rows.items():
        shapes[f"{module}.{name}.weight"] = (count, query_rows if name == out else hidden)
        if config.get(spec.bias) and name[0] in spec.biased:
            shapes[f"{module}.{name}.bias"] = (count,)
    return shapes


def _convolution_shapes(family: str, config: Config) -> dict[str, Shape]:
    hidden = config["hidden_size"]
    shapes: dict[str, Shape] = {
        "in_proj.weight": (3 * hidden, hidden),
        "conv.weight": (hidden, 1, config["conv_L_cache"]),
        "out_proj.weight": (hidden, hidden),
    }
    if config.get(FAMILIES[family].bias):
        rows = {"in_proj": 3 * hidden, "conv": hidden, "out_proj": hidden}
        shapes |= {f"{name}.bias": (count,) for name, count in rows.items()}
    return {f"conv.{name}": shape for name, shape in shapes.items()}


def _delta_net_shapes(family: str, config: Config) -> dict[str, Shape]:
    hidden = config["hidden_size"]
    n_value_heads, value_dim = config["linear_num_value_heads"], config["linear_value_head_dim"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = n_value_heads * value_dim
    if FAMILIES[family].split_delta_net:
        rows = {"qkv": 2 * keys + values, "z": values, "b": n_value_heads, "a": n_value_heads}
    else:
        rows = {"qkvz": 2 * keys + 2 * values, "ba": 2 * n_value_heads}
    shapes: dict[str, Shape] = {f"in_proj_{n}.weight": (r, hidden) for n, r in rows.items()}
    shapes["conv1d.weight"] = (2 * keys + values, 1, config["linear_conv_kernel_dim"])
    shapes["A_log"] = shapes["dt_bias"] = (n_value_heads,)
    shapes["norm.weight"] = (value_dim,)
    shapes["out_proj.weight"] = (hidden, values)
    return {f"linear_attn.{name}": shape for name, shape in shapes.items()}


_MIXERS = {
    "linear_attention": _delta_net_shapes,
    "conv": _convolution_shapes,
    "M": lambda _, config: nemotron.shapes(config),
}


def stack_experts(family: str, tensors: dict[str, Array], module: str) -> dict[str, Array]:
    """Per-expert matrices -> one [E, out, in] tensor per kind, named `.{module}.{kind}.weight`."""
    kinds = dict(zip(FAMILIES[family].experts, FAMILIES[family].stacked, strict=True))
    out: dict[str, Array] = {}
    groups: dict[str, dict[int, Array]] = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(.*)\.experts\.(\d+)\.(\w+)\.weight", name)
        if match:
            stem = f"{match[1]}.{module}.{kinds[match[3]]}.weight"
            groups.setdefault(stem, {})[int(match[2])] = value
        else:
            out[name] = value
    for stem, experts in groups.items():
        out[stem] = np.stack([experts[e] for e in range(len(experts))])
    return out


def fuse_experts(family: str, tensors: dict[str, Array]) -> dict[str, Array]:
    """Per-expert matrices -> gate_up_proj [E,2I,H] (gate rows first) and down_proj [E,H,I].

    Experts without a gate stay as they are.
    """
    if not FAMILIES[family].gated:
        return tensors
    stacked = stack_experts(family, tensors, "experts")
    out: dict[str, Array] = {}
    for name, value in stacked.items():
        base, _, kind = name.rpartition(".experts.")
        if kind == "gate_proj.weight":
            up = stacked[f"{base}.experts.up_proj.weight"]
            out[f"{base}.experts.gate_up_proj"] = np.concatenate([value, up], axis=1)
        elif kind == "down_proj.weight" and base:
            out[f"{base}.experts.down_proj"] = value
        elif not (kind == "up_proj.weight" and base):
            out[name] = value
    return out


def interleave_experts(family: str, tensors: dict[str, Array]) -> dict[str, Array]:
    """Per-expert matrices -> gate_up_proj [E,H,2I], columns of gate and up in turns, and biases."""
    stacked = stack_experts(family, tensors, "experts")
    out: dict[str, Array] = {}
    for name, value in stacked.items():
        base, _, kind = name.rpartition(".experts.")
        if not base or kind.startswith("up_proj"):
            if not base:
                out[name] = value
            continue
        part, _, leaf = kind.partition("_proj.")
        if part == "gate":
            up = stacked[f"{base}.experts.up_proj.{leaf}"]
            value = np.stack([value, up], axis=2).reshape(len(value), -1, *value.shape[2:])
        stored = f"{base}.experts.{'gate_up' if part == 'gate' else part}_proj"
        if leaf == "bias":
            out[f"{stored}_bias"] = value
        else:
            out[stored] = np.ascontiguousarray(np.swapaxes(value, 1, 2))
    return out


def to_mlx(family: str, tensors: dict[str, Array]) -> dict[str, Array]:
    """Hub names and conventions -> those of mlx-lm (stacked experts, 1+w norms, [C,K,1] conv)."""
    spec = FAMILIES[family]
    out: dict[str, Array] = {}
    for name, value in stack_experts(family, tensors, spec.mlx_experts).items():
        if name.startswith(spec.hub_prefix):
            name = spec.mlx_prefix + name[len(spec.hub_prefix) :]
        elif name.startswith(spec.hub_head):
            name = spec.mlx_head + name[len(spec.hub_head) :]
        if name.endswith(CONVOLUTIONS):
            value = np.moveaxis(value, 1, 2)
        for own, mlx in zip(spec.dense_names, spec.matrices, strict=True):
            name = name.replace(f".{spec.dense}.{own}.weight", f".{spec.dense}.{mlx}.weight")
        zero_centred = re.search(r"norm\.weight$", name) and ".linear_attn." not in name
        if spec.zero_centred_norms and zero_centred:
            value = np.float32(1.0) + value
        out[name] = value
    return out
