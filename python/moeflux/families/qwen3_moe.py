"""Qwen3-MoE: grouped-query attention with per-head q/k norm, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from . import builder
from .builder import Attention, Source, Spec, Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, ONE_WAY, Config
from .rope import rope


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3MoeForCausalLM checkpoint (hub or MLX layout) to the native spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY)
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    d_model, n_heads = config.count("hidden_size"), config.count("num_attention_heads")
    head_dim = config.count("head_dim", max(d_model // n_heads, 1), most=MAX_HEAD_DIM)
    rotation = rope(config, head_dim, 1.0, least=1.0)
    attention = Attention(config, head_dim, rotation, gated=False)

    def layer(index: int) -> Source:
        prefix = f"model.layers.{index}"
        source: Source = {
            "mixer": "attention",
            "norm": tensors.vector(f"{prefix}.input_layernorm.weight", d_model),
            "ffn_norm": tensors.vector(f"{prefix}.post_attention_layernorm.weight", d_model),
            "attention": attention.source(tensors, f"{prefix}.self_attn", 0.0),
        }
        if builder.is_moe_layer(config, index):
            normalise = config.flag("norm_topk_prob", False)
            source["moe"] = builder.moe(tensors, config, f"{prefix}.mlp", d_model, normalise)
        else:
            d_ff = config.count("intermediate_size")
            source["dense"] = builder.ffn(tensors, f"{prefix}.mlp", d_ff, d_model)
        return source

    layers = [layer(index) for index in range(config.count("num_hidden_layers", most=MAX_EACH))]
    return builder.trunk(tensors, config, 0.0, layers, rotation)
