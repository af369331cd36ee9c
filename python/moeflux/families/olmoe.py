"""OLMoE: norms over all queries and over all keys, softmax router, no shared expert."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("olmoe",)
_NAMES = MoeNames(d_ff="intermediate_size")


def build(checkpoint: Checkpoint) -> Spec:
    """Maps an OlmoeForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY | {"clip_qkv": ()})
    config.need("rms_norm_eps")
    config.layer_types(("full_attention",))
    tensors = Tensors(checkpoint, config)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    heads = Heads(config, rotation, norms="whole")
    normalise = config.flag("norm_topk_prob", False)

    def ffn(index: int, layer: str) -> Moe:
        return builder.moe(tensors, f"{layer}.mlp", normalise, _NAMES)

    layers = stack.layers(tensors, heads.mixer(tensors), ffn)
    return stack.trunk(tensors, layers, rotation)
