"""DeepSeek-V3, R1 and Kimi-K2: latent attention, YaRN, sigmoid router with groups."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Spec
from . import builder, deepseek
from .builder import Tensors
from .config import Config

MODEL_TYPES = ("deepseek_v3", "kimi_k2")


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a DeepseekV3ForCausalLM checkpoint (hub layout) to the spec."""
    config = Config(checkpoint)
    config.require(deepseek.ONE_WAY)
    config.need("n_group", "topk_group", "routed_scaling_factor", "first_k_dense_replace")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    heads = deepseek.LatentHeads(config)
    ffn = deepseek.networks(tensors, first=3)
    layers = builder.layers(tensors, heads.mixer(tensors), ffn)
    return builder.trunk(tensors, layers, heads.rope, others=builder.later_layers(config))
