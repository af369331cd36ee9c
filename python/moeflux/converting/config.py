"""The config.json of a converted checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# Fields of a source's config that are about its weights.
_ABOUT_WEIGHTS = ("quantization", "quantization_config", "compression_config")
# Fields that no key of GGUF's has, and that others' loaders demand of some family or other: the
# values that mean what is so without them.
_DEMANDED = {"decoder_sparse_step": 1, "mlp_only_layers": [], "rope_scaling": None,
             "shared_intermediate_size": 0}  # fmt: skip
_TEXT = "_text"


def is_text_only(config: Mapping[str, Any]) -> bool:
    """Whether it is the config of a model's text part, which MLX has inside of another."""
    kind = config.get("model_type")
    return isinstance(kind, str) and kind.endswith(_TEXT)


def of_source(
    source: Mapping[str, Any], quantization: dict[str, Any], from_gguf: bool
) -> dict[str, Any]:
    """That of the source, without what it says of weights, and what is said of the new ones."""
    config = copy.deepcopy({name: value for name, value in source.items()
                            if name not in _ABOUT_WEIGHTS})  # fmt: skip
    inner = config.get("text_config")
    for name in _ABOUT_WEIGHTS:
        if isinstance(inner, dict):
            inner.pop(name, None)
    if from_gguf:
        config = _DEMANDED | config
    if is_text_only(config):
        outer = {"model_type": config["model_type"].removesuffix(_TEXT)}
        if "tie_word_embeddings" in config:
            outer["tie_word_embeddings"] = config["tie_word_embeddings"]
        config = outer | {"text_config": config}
    return config | {"quantization": quantization, "quantization_config": quantization}
