"""Qwen2-MoE and Qwen1.5-MoE: biases of q, k and v, softmax router, a gated shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("qwen2_moe",)
_ONE_WAY = ONE_WAY | {"attention_bias": (False,)}  # `qkv_bias` says which there are


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen2MoeForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(_ONE_WAY)
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    biased = "qkv" if config.flag("qkv_bias", True) else ""
    heads = Heads(config, rotation, norms=None, biased=biased)
    sparse = stack.moe_layers(config)

    def ffn(index: int, layer: str) -> Moe | GatedFfn:
        if index not in sparse:
            return builder.ffn(tensors, f"{layer}.mlp", config.count("intermediate_size"))
        return builder.qwen_moe(tensors, f"{layer}.mlp", config.flag("norm_topk_prob", False))

    layers = stack.layers(tensors, heads.mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation)
