"""Qwen3-MoE: grouped-query attention with per-head q/k norm, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from . import builder
from .builder import Config, Source, Spec, Tensors


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3MoeForCausalLM checkpoint (hub or MLX layout) to the native spec."""
    config = Config(checkpoint)
    tensors = Tensors(checkpoint, config)
    d_model, n_heads = config.count("hidden_size"), config.count("num_attention_heads")
    n_kv_heads = config.count("num_key_value_heads", n_heads)
    head_dim = config.count("head_dim", max(d_model // n_heads, 1))
    if n_heads % n_kv_heads or head_dim % 2:
        raise config.bad(f"expected heads in whole groups and an even head_dim, found {n_heads} "
                         f"heads, {n_kv_heads} kv heads, head_dim {head_dim}")  # fmt: skip
    if config.flag("use_sliding_window", False):
        raise config.bad("sliding-window attention is not supported: expected "
                         "use_sliding_window false")  # fmt: skip
    bias = config.flag("attention_bias", False)
    rope = builder.rope(config, head_dim)

    def layer(index: int) -> Source:
        prefix = f"model.layers.{index}"
        attn = f"{prefix}.self_attn"
        source: Source = {
            "mixer": "attention",
            "norm": tensors.vector(f"{prefix}.input_layernorm.weight", d_model),
            "ffn_norm": tensors.vector(f"{prefix}.post_attention_layernorm.weight", d_model),
            "attention": {
                "q": tensors.matrix(f"{attn}.q_proj", n_heads * head_dim, d_model, bias=bias),
                "k": tensors.matrix(f"{attn}.k_proj", n_kv_heads * head_dim, d_model, bias=bias),
                "v": tensors.matrix(f"{attn}.v_proj", n_kv_heads * head_dim, d_model, bias=bias),
                "o": tensors.matrix(f"{attn}.o_proj", d_model, n_heads * head_dim, bias=bias),
                "q_norm": tensors.vector(f"{attn}.q_norm.weight", head_dim),
                "k_norm": tensors.vector(f"{attn}.k_norm.weight", head_dim),
                "n_heads": n_heads,
                "n_kv_heads": n_kv_heads,
                "head_dim": head_dim,
                "rotary_dim": head_dim,
                "rope_scale": rope["rope_scale"],
            },
        }
        if builder.is_moe_layer(config, index):
            normalise = config.flag("norm_topk_prob", False)
            source["moe"] = builder.moe(tensors, config, f"{prefix}.mlp", d_model, normalise)
        else:
            d_ff = config.count("intermediate_size")
            source["dense"] = builder.ffn(tensors, f"{prefix}.mlp", d_ff, d_model)
        return source

    layers = [layer(index) for index in range(config.count("num_hidden_layers"))]
    return builder.trunk(tensors, config, 0.0, layers, rope)
