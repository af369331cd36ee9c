"""dots.llm1: Qwen3's attention, DeepSeek's router and names, a plain shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("dots1",)
_NAMES = MoeNames(selection_bias="gate.e_score_correction_bias", n_experts="n_routed_experts")


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Dots1ForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY | {"sliding_window": ()})
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    sparse = stack.sparse_layers(config, first=0)
    steps = builder.sigmoid_steps(config, "routed_scaling_factor")

    def ffn(index: int, layer: str) -> Moe | GatedFfn:
        name = f"{layer}.mlp"
        if index not in sparse:
            return builder.ffn(tensors, name, config.count("intermediate_size"))
        d_shared = config.count("n_shared_experts") * config.count("moe_intermediate_size")
        shared = builder.ffn(tensors, f"{name}.shared_experts", d_shared)
        normalise = config.flag("norm_topk_prob", False)
        return builder.moe(tensors, name, normalise, _NAMES, (shared, None), **steps)

    layers = stack.layers(tensors, Heads(config, rotation).mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation)
