"""Mistral Small 4: latent attention whose queries grow with their positions, softmax router.

The text part of a `mistral3` checkpoint, or alone.
"""

from __future__ import annotations

from dataclasses import replace

from ..checkpoint import Checkpoint
from ..spec import Mla, Spec
from . import deepseek, stack, wrapped
from .builder import Tensors
from .config import MAX_COUNT

MODEL_TYPES = ("mistral4", "mistral3")
_ONE_WAY = deepseek.ONE_WAY | {
    "model_type": ("mistral4",),
    "scoring_func": ("softmax",),
    "topk_method": (),
}
_GROWTH = "llama_4_scaling_beta"
_MAX_GROWTH = 1e3


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Mistral4ForCausalLM checkpoint (hub layout, wrapped or not) to the spec."""
    config = wrapped.text_config(checkpoint)
    config.require(_ONE_WAY)
    config.need(_GROWTH, "original_max_position_embeddings", "factor", "first_k_dense_replace")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    names = wrapped.layout(tensors)
    heads = deepseek.LatentHeads(config, True, (_GROWTH, "max_position_embeddings"))
    latent = heads.mixer(tensors)
    growth = config.number(_GROWTH, None, 0, _MAX_GROWTH, config.rotation)
    step = config.count("original_max_position_embeddings", None, 1, MAX_COUNT, config.rotation)

    def mixer(index: int, layer: str) -> Mla:
        return replace(latent(index, layer), query_growth=growth, query_step=step)

    layers = stack.layers(tensors, mixer, deepseek.networks(tensors, 0, "softmax"), names)
    return stack.trunk(tensors, layers, heads.rope, names=names)
