"""GLM-4.7-Flash: latent attention, sigmoid router, plain shared expert, a dense first layer."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Spec
from . import builder, deepseek
from .builder import Tensors
from .config import Config

MODEL_TYPES = ("glm4_moe_lite",)


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Glm4MoeLiteForCausalLM checkpoint (hub layout) to the spec."""
    config = Config(checkpoint)
    config.require(deepseek.ONE_WAY)
    config.need("rms_norm_eps", "routed_scaling_factor")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    heads = deepseek.LatentHeads(config)
    ffn = deepseek.networks(tensors, first=1)
    layers = builder.layers(tensors, heads.mixer(tensors), ffn)
    return builder.trunk(tensors, layers, heads.rope, others=builder.later_layers(config))
