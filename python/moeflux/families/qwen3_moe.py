"""Qwen3-MoE: grouped-query attention with per-head q/k norm, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Layer, Moe, Spec
from . import builder
from .builder import Heads, Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("qwen3_moe",)


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3MoeForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY)
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    d_model, n_heads = tensors.d_model, config.count("num_attention_heads")
    head_dim = config.count("head_dim", max(d_model // n_heads, 1), most=MAX_HEAD_DIM)
    rotation = rope(config, head_dim, 1.0, least=1.0)
    heads = Heads(config, head_dim, rotation)

    def layer(index: int) -> Layer:
        prefix = f"model.layers.{index}"
        return Layer(
            norm=tensors.vector(f"{prefix}.input_layernorm.weight", d_model),
            mixer=heads.attention(tensors, f"{prefix}.self_attn"),
            ffn_norm=tensors.vector(f"{prefix}.post_attention_layernorm.weight", d_model),
            ffn=ffn(index, f"{prefix}.mlp"),
        )

    def ffn(index: int, name: str) -> Moe | GatedFfn:
        if builder.is_moe_layer(config, index):
            return builder.moe(tensors, name, config.flag("norm_topk_prob", False))
        return builder.ffn(tensors, name, config.count("intermediate_size"))

    layers = [layer(index) for index in range(config.count("num_hidden_layers", most=MAX_EACH))]
    return builder.trunk(tensors, layers, rotation)
