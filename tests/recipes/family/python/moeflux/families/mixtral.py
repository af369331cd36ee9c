"""Mixtral: grouped-query attention without norms of heads, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Layer, Spec
from . import builder
from .builder import Heads, MoeNames, Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("mixtral",)
_NAMES = MoeNames(experts=("w1", "w3", "w2"), n_experts="num_local_experts",
                  d_ff="intermediate_size")  # fmt: skip


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a MixtralForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY | {"sliding_window": ()})
    tensors = Tensors(checkpoint, config)
    d_model, n_heads = tensors.d_model, config.count("num_attention_heads")
    head_dim = config.count("head_dim", max(d_model // n_heads, 1), most=MAX_HEAD_DIM)
    rotation = rope(config, head_dim, 1.0)
    heads = Heads(config, head_dim, rotation, normed=False)

    def layer(index: int) -> Layer:
        name = f"model.layers.{index}"
        return Layer(
            norm=tensors.vector(f"{name}.input_layernorm.weight", d_model),
            mixer=heads.attention(tensors, f"{name}.self_attn"),
            ffn_norm=tensors.vector(f"{name}.post_attention_layernorm.weight", d_model),
            ffn=builder.moe(tensors, f"{name}.block_sparse_moe", True, _NAMES),
        )

    layers = [layer(index) for index in range(config.count("num_hidden_layers", most=MAX_EACH))]
    return builder.trunk(tensors, layers, rotation)
