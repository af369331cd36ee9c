"""What distinguishes the families, as data: base configs, prefixes, tensor spellings.

Knows the public checkpoints' conventions; knows no values, no files and no arithmetic. A module
with a FAMILY is the family of its name.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil

from .family import EOS_ID, Config, Family

__all__ = ["EOS_ID", "FAMILIES", "Config", "Family", "is_sparse", "layer_types", "stored_config",
           "text_config"]  # fmt: skip

_MODULES = {found.name: importlib.import_module(f"{__name__}.{found.name}")
            for found in pkgutil.iter_modules(__path__)}  # fmt: skip
FAMILIES: dict[str, Family] = {
    name: module.FAMILY for name, module in _MODULES.items() if hasattr(module, "FAMILY")
}


_LETTERS = {"linear_attention": "M", "full_attention": "*", "moe": "E", "mlp": "-"}


def text_config(family: str, overrides: Config) -> Config:
    """The family's text config with `overrides` on top (hub dialect).

    An override of Qwen's name of the number or the width of experts, or of how many a token has, is
    one of the family's own.
    """
    spec = FAMILIES[family]
    own = {"num_experts": spec.n_experts, "moe_intermediate_size": spec.d_ff,
           "num_experts_per_tok": spec.top_k}  # fmt: skip
    config = copy.deepcopy(spec.base)
    config.update({own.get(key, key): copy.deepcopy(value) for key, value in overrides.items()})
    if "num_hidden_layers" in overrides and "layer_types" not in overrides:
        types, n_layers = config.pop("layer_types", []), config["num_hidden_layers"]
        if {"sliding_attention", "conv"} & set(types):
            config["layer_types"] = (types * n_layers)[:n_layers]
        if spec.pattern and spec.pattern not in overrides:
            config[spec.pattern] = (config[spec.pattern] * n_layers)[:n_layers]
    if FAMILIES[family].wrapper and "layer_types" not in config:
        config["layer_types"] = layer_types(config)
    return config


def layer_types(config: Config) -> list[str]:
    """Mixer kind of each layer; an explicit list wins over the interval."""
    if config.get("hybrid_override_pattern"):
        return list(config["hybrid_override_pattern"])
    if config.get("layers_block_type"):
        return [_LETTERS[kind] for kind in config["layers_block_type"]]
    if config.get("layer_types"):
        return list(config["layer_types"])
    interval = config.get("full_attention_interval", 1)
    kinds = ("linear_attention", "full_attention")
    return [kinds[(i + 1) % interval == 0] for i in range(config["num_hidden_layers"])]


def is_sparse(config: Config, layer: int) -> bool:
    """Whether `layer` holds experts (else one dense FFN of `intermediate_size`)."""
    step = config.get("decoder_sparse_step", 1)
    if set(kinds := layer_types(config)) <= set("M*E-"):
        return kinds[layer] == "E"
    if layer < config.get("first_k_dense_replace", config.get("num_dense_layers", 0)):
        return False
    return layer not in (config.get("mlp_only_layers") or []) and (layer + 1) % step == 0


def stored_config(family: str, text: Config, dtype: str, dialect: str) -> Config:
    """config.json as a dict: wrapped if the family nests it, in the `dialect` asked for.

    Args:
        dialect: "hub" (rope_theta, rope_scaling, full_attention_interval, torch_dtype) or
            "transformers5" (rope_parameters, layer_types, dtype).
    """
    text, spec = copy.deepcopy(text), FAMILIES[family]
    if dialect == "transformers5" and "rope_parameters" not in text and spec.rotated:
        rope = dict(text.pop("rope_scaling", None) or {"rope_type": "default"})
        rope.setdefault("rope_type", rope.pop("type", "default"))
        rope["rope_theta"] = text.pop("rope_theta")
        if "partial_rotary_factor" in text:
            rope["partial_rotary_factor"] = text.pop("partial_rotary_factor")
        text["rope_parameters"] = rope
    if dialect == "transformers5" and spec.pattern:
        names = {letter: name for name, letter in _LETTERS.items()}
        text["layers_block_type"] = [names[letter] for letter in text.pop(spec.pattern)]
        del text["num_hidden_layers"]
        text["time_step_limit"] = [0.0, {"__float__": "Infinity"}]
    if dialect == "transformers5" and "full_attention_interval" in text:
        text["layer_types"] = layer_types(text)
        del text["full_attention_interval"]
    if spec.wrapper is None:
        text["dtype" if dialect == "transformers5" else "torch_dtype"] = dtype
        return text
    outer = {"tie_word_embeddings": text["tie_word_embeddings"]}
    return copy.deepcopy(spec.wrapper) | outer | {"text_config": text | {"dtype": dtype}}
