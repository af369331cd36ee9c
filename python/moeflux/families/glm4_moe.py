"""GLM-4.5 to 4.7: half rotary, sigmoid router, plain shared expert, dense first layers."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Spec
from . import deepseek, stack
from .attention import Heads, head_dim
from .builder import Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("glm4_moe",)


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Glm4MoeForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY)
    config.need("rms_norm_eps")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 0.5)
    norms = "heads" if config.flag("use_qk_norm", False) else None
    biased = "qkv" if config.flag("attention_bias", False) else ""
    heads = Heads(config, rotation, norms=norms, biased=biased)
    layers = stack.layers(tensors, heads.mixer(tensors), deepseek.networks(tensors))
    return stack.trunk(tensors, layers, rotation, others=stack.later_layers(config))
