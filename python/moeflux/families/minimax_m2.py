"""MiniMax-M2: norms over all queries and over all keys, partial rotary, sigmoid router."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("minimax_m2",)
# Fields of the release that say what transformers does whatever they say.
_ONE_WAY = ONE_WAY | {
    "attention_bias": (False,),
    "qk_norm_type": ("per_layer",),
    "scoring_func": ("sigmoid",),
    "shared_intermediate_size": (0,),
    "use_qk_norm": (True,),
    "use_routing_bias": (True,),
}
_NAMES = MoeNames(selection_bias="e_score_correction_bias", experts=("w1", "w3", "w2"),
                  n_experts="num_local_experts", d_ff="intermediate_size")  # fmt: skip


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a MiniMaxM2ForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(_ONE_WAY)
    config.need("rope_theta")
    config.layer_types(("full_attention",))
    config.listed("attn_type_list", "1, full attention", lambda kind: kind == 1)
    tensors = Tensors(checkpoint, config)
    dim = head_dim(config)
    rotation = rope(config, dim, config.count("rotary_dim", dim) / dim)
    heads = Heads(config, rotation, norms="whole", biased="")

    def ffn(index: int, layer: str) -> Moe:
        name = f"{layer}.block_sparse_moe"
        return builder.moe(tensors, name, True, _NAMES, score="sigmoid", sum_eps=1e-20)

    layers = stack.layers(tensors, heads.mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation)
