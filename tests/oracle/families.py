"""What distinguishes the families, as data: base configs, prefixes, tensor spellings.

Knows the public checkpoints' conventions; knows no values, no files and no arithmetic.
Adding a family that is made of known parts is one more entry of `FAMILIES`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

EOS_ID = 256  # the byte-level tokenizer of tokenizer_file.py: 256 bytes, then <|im_end|>


@dataclass(frozen=True)
class Family:
    """Conventions of one `model_type`.

    Attributes:
        base: text config in the family's own hub dialect, every structural feature on.
        hub_prefix / mlx_prefix: what stands before `layers.{i}.` and `embed_tokens`.
        hub_head / mlx_head: name of the output matrix.
        zero_centred_norms: hub files store w where the model multiplies by 1 + w.
        gated_attention: q_proj has per head [query | gate] rows.
        split_delta_net: in_proj_{qkv,z,b,a} instead of in_proj_{qkvz,ba} grouped by key head.
        fused_experts: hub files hold gate_up_proj [E,2I,H] and down_proj [E,H,I].
        wrapped_type: the outer model_type when the text config is nested in `text_config`.
    """

    base: Config
    hub_prefix: str = "model."
    mlx_prefix: str = "model."
    hub_head: str = "lm_head"
    mlx_head: str = "lm_head"
    zero_centred_norms: bool = False
    gated_attention: bool = False
    split_delta_net: bool = False
    fused_experts: bool = False
    wrapped_type: str | None = None


_COMMON: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": EOS_ID,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 64,
    "num_attention_heads": 4,
    "num_experts": 24,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 257,
}
_SPARSE: Config = {
    "decoder_sparse_step": 1,
    "intermediate_size": 192,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "output_router_logits": False,
}
_DELTA_NET: Config = {
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 32,
    "num_hidden_layers": 5,
    "shared_expert_intermediate_size": 64,
}

FAMILIES: dict[str, Family] = {
    "qwen3_moe": Family(
        base=_COMMON
        | _SPARSE
        | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "max_window_layers": 3,
            "num_hidden_layers": 3,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
    ),
    "qwen3_next": Family(
        base=_COMMON
        | _SPARSE
        | _DELTA_NET
        | {
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
            "partial_rotary_factor": 0.25,
            "rope_scaling": None,
            "rope_theta": 10000000,
        },
        zero_centred_norms=True,
        gated_attention=True,
    ),
    "qwen3_5_moe": Family(
        base=_COMMON
        | _DELTA_NET
        | {
            "attn_output_gate": True,
            "layer_types": ["linear_attention"] * 3 + ["full_attention", "linear_attention"],
            "mamba_ssm_dtype": "float32",
            "model_type": "qwen3_5_moe_text",
            "mtp_num_hidden_layers": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000000,
                "partial_rotary_factor": 0.25,
                "mrope_interleaved": True,
                "mrope_section": [2, 1, 1],
            },
        },
        hub_prefix="model.language_model.",
        mlx_prefix="language_model.model.",
        mlx_head="language_model.lm_head",
        zero_centred_norms=True,
        gated_attention=True,
        split_delta_net=True,
        fused_experts=True,
        wrapped_type="qwen3_5_moe",
    ),
}


def text_config(family: str, overrides: Config) -> Config:
    """The family's text config with `overrides` on top (hub dialect)."""
    config = copy.deepcopy(FAMILIES[family].base)
    config.update(copy.deepcopy(overrides))
    if "num_hidden_layers" in overrides and "layer_types" not in overrides:
        config.pop("layer_types", None)
    if FAMILIES[family].wrapped_type and "layer_types" not in config:
        config["layer_types"] = layer_types(config)
    return config


def layer_types(config: Config) -> list[str]:
    """Mixer kind of each layer; an explicit list wins over the interval."""
    if config.get("layer_types"):
        return list(config["layer_types"])
    interval = config.get("full_attention_interval", 1)
    kinds = ("linear_attention", "full_attention")
    return [kinds[(i + 1) % interval == 0] for i in range(config["num_hidden_layers"])]


def is_sparse(config: Config, layer: int) -> bool:
    """Whether `layer` holds experts (else one dense FFN of `intermediate_size`)."""
    step = config.get("decoder_sparse_step", 1)
    return layer not in (config.get("mlp_only_layers") or []) and (layer + 1) % step == 0


def stored_config(family: str, text: Config, dtype: str, dialect: str) -> Config:
    """config.json as a dict: wrapped if the family nests it, in the `dialect` asked for.

    Args:
        dialect: "hub" (rope_theta, rope_scaling, full_attention_interval, torch_dtype) or
            "transformers5" (rope_parameters, layer_types, dtype).
    """
    text, spec = copy.deepcopy(text), FAMILIES[family]
    if dialect == "transformers5" and "rope_parameters" not in text:
        rope = dict(text.pop("rope_scaling", None) or {"rope_type": "default"})
        rope.setdefault("rope_type", rope.pop("type", "default"))
        rope["rope_theta"] = text.pop("rope_theta")
        if "partial_rotary_factor" in text:
            rope["partial_rotary_factor"] = text.pop("partial_rotary_factor")
        text["rope_parameters"] = rope
    if dialect == "transformers5" and "full_attention_interval" in text:
        text["layer_types"] = layer_types(text)
        del text["full_attention_interval"]
    if spec.wrapped_type is None:
        text["dtype" if dialect == "transformers5" else "torch_dtype"] = dtype
        return text
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": spec.wrapped_type,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": text | {"dtype": dtype},
        "vision_config": {"model_type": spec.wrapped_type, "depth": 1, "hidden_size": 32},
    }
