"""Qwen3-MoE: grouped-query attention with per-head q/k norm, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("qwen3_moe",)


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3MoeForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY)
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    heads = Heads(config, rotation)
    sparse = stack.moe_layers(config)

    def ffn(index: int, layer: str) -> Moe | GatedFfn:
        name = f"{layer}.mlp"
        if index in sparse:
            return builder.moe(tensors, name, config.flag("norm_topk_prob", False))
        return builder.ffn(tensors, name, config.count("intermediate_size"))

    layers = stack.layers(tensors, heads.mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation)
