"""GLM-4.5 to 4.7: half rotary, sigmoid router, plain shared expert, dense first layers."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Moe, Spec
from . import builder
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("glm4_moe",)
_NAMES = MoeNames(selection_bias="gate.e_score_correction_bias", n_experts="n_routed_experts")


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
    sparse = builder.sparse_layers(config)
    steps = builder.sigmoid_steps(config, "routed_scaling_factor")

    def ffn(index: int, layer: str) -> Moe | GatedFfn:
        name = f"{layer}.mlp"
        if index not in sparse:
            return builder.ffn(tensors, name, config.count("intermediate_size"))
        d_shared = config.count("n_shared_experts", 1) * config.count("moe_intermediate_size")
        shared = builder.ffn(tensors, f"{name}.shared_experts", d_shared)
        normalise = config.flag("norm_topk_prob", True)
        return builder.moe(tensors, name, normalise, _NAMES, (shared, None), **steps)

    layers = builder.layers(tensors, heads.mixer(tensors), ffn)
    return builder.trunk(tensors, layers, rotation, others=builder.later_layers(config))
