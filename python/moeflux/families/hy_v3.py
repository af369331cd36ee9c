"""Hunyuan 3: Qwen3's attention, sigmoid router, plain shared expert, dense first layers."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("hy_v3",)
# Fields of the release that say what transformers does whatever they say.
_ONE_WAY = ONE_WAY | {
    "mlp_bias": (False,),
    "moe_router_enable_expert_bias": (True,),
    "moe_router_use_sigmoid": (True,),
    "qk_norm": (True,),
    "route_norm": (True,),
}
_NAMES = MoeNames(router="router.gate", selection_bias="expert_bias")


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a HYV3ForCausalLM checkpoint (hub layout) to the spec."""
    config = Config(checkpoint)
    config.require(_ONE_WAY)
    config.need("rms_norm_eps", "rope_theta", "router_scaling_factor")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    heads = Heads(config, rotation)
    sparse = stack.sparse_layers(config)
    steps = builder.sigmoid_steps(config, "router_scaling_factor")

    def ffn(index: int, layer: str) -> Moe | GatedFfn:
        name = f"{layer}.mlp"
        if index not in sparse:
            return builder.ffn(tensors, name, config.count("intermediate_size"))
        d_shared = config.count("num_shared_experts", 1) * config.count("moe_intermediate_size")
        shared = builder.ffn(tensors, f"{name}.shared_mlp", d_shared)
        return builder.moe(tensors, name, True, _NAMES, (shared, None), **steps)

    layers = stack.layers(tensors, heads.mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation, others=stack.later_layers(config))
