"""Mixtral: grouped-query attention without norms of heads, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("mixtral",)
_ONE_WAY = ONE_WAY | {"sliding_window": (), "attention_bias": (False,)}
_NAMES = MoeNames(experts=("w1", "w3", "w2"), n_experts="num_local_experts",
                  d_ff="intermediate_size")  # fmt: skip


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a MixtralForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(_ONE_WAY)
    config.need("rms_norm_eps", "rope_theta")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    heads = Heads(config, rotation, norms=None)

    def ffn(index: int, layer: str) -> Moe:
        return builder.moe(tensors, f"{layer}.block_sparse_moe", True, _NAMES)

    layers = stack.layers(tensors, heads.mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation)
