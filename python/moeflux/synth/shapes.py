"""Shapes of real models, as the text configs of their checkpoints. Sources: the public configs.

Knows no tensors and no values. A shape is data: another one is another entry of SHAPES.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from ..errors import FormatError

Config = dict[str, Any]

EOS_ID = 256  # of the byte-level tokenizer: 256 bytes, then <|im_end|>
GROUP = 64  # columns that share a scale: every width is a multiple of it

_QWEN3_MOE: Config = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "eos_token_id": EOS_ID,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
_DELTA_NET: Config = {
    "attention_bias": False,
    "eos_token_id": EOS_ID,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_QWEN3_NEXT: Config = _DELTA_NET | {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.25,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
_QWEN3_5_MOE: Config = _DELTA_NET | {
    "attn_output_gate": True,
    "dtype": "bfloat16",
    "model_type": "qwen3_5_moe_text",
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,
    },
    "vocab_size": 248320,
}

SHAPES: dict[str, Config] = {
    "qwen3-30b-a3b": _QWEN3_MOE
    | {
        "hidden_size": 2048,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
    },
    "qwen3-235b-a22b": _QWEN3_MOE
    | {
        "hidden_size": 4096,
        "head_dim": 128,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_attention_heads": 64,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 94,
        "num_key_value_heads": 4,
    },
    "qwen3-next-80b-a3b": _QWEN3_NEXT
    | {
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "linear_num_value_heads": 32,
        "moe_intermediate_size": 512,
        "num_attention_heads": 16,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "num_hidden_layers": 48,
        "shared_expert_intermediate_size": 512,
    },
    "qwen3.6-35b-a3b": _QWEN3_5_MOE
    | {
        "hidden_size": 2048,
        "linear_num_value_heads": 32,
        "moe_intermediate_size": 512,
        "num_attention_heads": 16,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 40,
        "shared_expert_intermediate_size": 512,
    },
    "qwen3.5-397b-a17b": _QWEN3_5_MOE
    | {
        "hidden_size": 4096,
        "linear_num_value_heads": 64,
        "moe_intermediate_size": 1024,
        "num_attention_heads": 32,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "num_hidden_layers": 60,
        "shared_expert_intermediate_size": 1024,
    },
    "small": _QWEN3_MOE
    | {
        "hidden_size": 256,
        "head_dim": 64,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "num_attention_heads": 4,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
}


def shape(name: str, layers: int | None = None, settings: Sequence[str] = ()) -> Config:
    """The text config of a named shape, cut to `layers`, with "key=JSON" `settings` on top.

    Raises:
        FormatError: no such shape, no such key, or widths that groups of 64 do not divide.
    """
    if name not in SHAPES:
        raise FormatError(f"[synth] expected a shape of {', '.join(SHAPES)}, found {name!r}")
    config = copy.deepcopy(SHAPES[name])
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in config:
            raise FormatError(f"[synth] expected key=value with a key of {', '.join(config)}, "
                              f"found {setting!r}")  # fmt: skip
        try:
            config[key] = json.loads(text)
        except ValueError:
            raise FormatError(f"[synth] expected a JSON value, found {setting!r}") from None
    if layers is not None:
        config["num_hidden_layers"] = layers
    _check(config)
    return config


def _check(config: Config) -> None:
    counts = [key for key, value in SHAPES["qwen3.5-397b-a17b"].items() if type(value) is int]
    for key in {*counts, "intermediate_size"} & config.keys():
        value, least = config[key], EOS_ID + 2 if key == "vocab_size" else 1
        if type(value) is not int or not least <= value < 1 << 24:
            raise FormatError(f"[synth] expected {key} in {least}..{1 << 24}, found {value!r}")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    widths = {
        "hidden_size": config["hidden_size"],
        "moe_intermediate_size": config["moe_intermediate_size"],
        "num_attention_heads * head_dim": heads * config["head_dim"],
    }
    if "shared_expert_intermediate_size" in config:
        widths["shared_expert_intermediate_size"] = config["shared_expert_intermediate_size"]
        widths["linear_num_value_heads * linear_value_head_dim"] = (
            config["linear_num_value_heads"] * config["linear_value_head_dim"]
        )
    for key, width in widths.items():
        if width % GROUP:
            raise FormatError(f"[synth] expected {key} in whole groups of {GROUP}, found {width}")
    if config["hidden_size"] < 2 * GROUP:
        raise FormatError(f"[synth] expected hidden_size of at least {2 * GROUP}, "
                          f"found {config['hidden_size']}")  # fmt: skip
    ratio = config.get("linear_num_value_heads", 1) % config.get("linear_num_key_heads", 1)
    if heads % kv_heads or ratio or config["num_experts_per_tok"] > config["num_experts"]:
        raise FormatError(f"[synth] expected heads in whole groups and K <= experts, found {heads} "
                          f"over {kv_heads} heads, K {config['num_experts_per_tok']} of "
                          f"{config['num_experts']}")  # fmt: skip


def is_linear(config: Config, layer: int) -> bool:
    """Whether a layer's mixer is a gated delta net."""
    interval = config.get("full_attention_interval")
    return interval is not None and (layer + 1) % int(interval) != 0
