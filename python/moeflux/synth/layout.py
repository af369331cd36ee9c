"""Which tensors a shape has, in MLX's spelling, and what values they get. Writes nothing."""

from __future__ import annotations

from typing import Any

from ..errors import FormatError
from .builder import Builder
from .families import FAMILIES, Family
from .shapes import GROUP, Config
from .weights import CONSTANT, HEAD_GAIN, Gate, Item, PlainGate


def _family(config: Config) -> Family:
    found = FAMILIES.get(config["model_type"]) if isinstance(config["model_type"], str) else None
    if found is None:
        raise FormatError(f"[synth] expected a model_type of {', '.join(FAMILIES)}, "
                          f"found {config['model_type']!r}")  # fmt: skip
    return found


def _with_last(config: Config) -> Config:
    """The config of a family whose last layer has a kind of its own."""
    last = FAMILIES[config["model_type"]].last
    return config | {"layer_types": [*config["layer_types"][:-1], last]} if last else config


def _kinds(builder: Builder, family: Family) -> list[str]:
    """The kind of each layer, as the config tells them."""
    kinds = family.kinds(builder)
    for kind in kinds:
        if not isinstance(kind, str) or kind not in family.layers:
            raise FormatError(f"[synth] expected layers of {', '.join(family.layers)}, "
                              f"found {kind!r}")  # fmt: skip
    return kinds


def items(config: Config, seed: int, skew: float) -> list[Item]:
    """Every tensor of the model, in its order; a 4-bit or 8-bit item stands for three of a file.

    Raises:
        FormatError: sizes that make no model, or widths that groups of 64 do not divide.
    """
    family = _family(config)
    builder = Builder(_with_last(config), seed, skew)
    hidden, vocab = builder.hidden, builder.count("vocab_size")
    builder.count("max_position_embeddings")
    prefix = family.outer + family.prefix
    level = hidden**-0.5 if family.embed_scale else 1.0
    builder.matrix(f"{prefix}{family.embedding}", vocab, hidden, gain=level,
                   constant=CONSTANT * level)  # fmt: skip
    for layer, kind in enumerate(_kinds(builder, family)):
        for block in family.layers[kind]:
            block.add(builder, f"{prefix}layers.{layer}.", layer)
    is_tied = family.tied and config["tie_word_embeddings"]
    gain = HEAD_GAIN / (level * hidden**0.5) if is_tied else 1.0
    builder.norm(f"{prefix}{family.final_norm}", hidden, constant=0, gain=gain)
    if not config["tie_word_embeddings"]:
        builder.matrix(f"{family.outer}lm_head", vocab, hidden, gain=HEAD_GAIN)
    return builder.items


def mlx_config(config: Config, model: list[Item]) -> Config:
    """config.json of the MLX checkpoint."""
    gates: dict[str, Any] = {
        item.name: {"group_size": GROUP, "bits": 8}
        for item in model
        if isinstance(item, Gate) and not isinstance(item, PlainGate)
    }
    quantization = {"group_size": GROUP, "bits": 4, "mode": "affine"} | gates
    extra = {"quantization": quantization, "quantization_config": quantization}
    config, wrapper = _with_last(config), FAMILIES[config["model_type"]].wrapper
    if not wrapper:
        return config | extra
    tied = {"tie_word_embeddings": config["tie_word_embeddings"]}
    return wrapper | tied | {"text_config": config} | extra
