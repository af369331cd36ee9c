"""Shapes of real models, as the text configs of their checkpoints. Sources: the public configs.

Knows no tensors and no values. A shape is data: another one is another file of configs/.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import FormatError

Config = dict[str, Any]

EOS_ID = 256  # of the byte-level tokenizer: 256 bytes, then <|im_end|>
GROUP = 64  # columns that share a scale: every width is a multiple of it

FOLDER = Path(__file__).with_name("configs")
SHAPES: dict[str, Config] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
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
