"""GPT-OSS: sinks, every second layer with a sliding window, clamped experts, biases everywhere.

MLX's layout, and that of the releases (MXFP4). Plain weights of transformers are transposed, which
nothing here reads.
"""

from __future__ import annotations

from dataclasses import replace

from ..checkpoint import Checkpoint
from ..spec import Attention, Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames
from .config import MAX_COUNT, ONE_WAY, Config
from .mxfp4 import Mxfp4Tensors
from .rope import rope

MODEL_TYPES = ("gpt_oss",)
_NAMES = MoeNames(router="router", n_experts="num_local_experts", d_ff="intermediate_size",
                  stack="experts", biased=True)  # fmt: skip
_KINDS = ("sliding_attention", "full_attention")
_ALPHA = 1.702  # no config has it


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a GptOssForCausalLM checkpoint (MLX layout or MXFP4) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY | {"attention_bias": (True,)})
    config.need("rms_norm_eps", "rope_theta")
    if config.rotation.get("rope_type") is None:  # transformers: YaRN, which MLX has not
        raise config.bad("expected rope_type in rope_scaling, found none")
    tensors = Mxfp4Tensors(checkpoint, config)
    types = config.layer_types(_KINDS)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    heads = Heads(config, rotation, norms=None, biased="qkvo", sinks=True)
    limit = config.number("swiglu_limit", 7.0, low=1e-3, high=1e6)

    def mixer(index: int, layer: str) -> Attention:
        kind = types[index] if types else _KINDS[index % 2]
        window = config.count("sliding_window", 128, most=MAX_COUNT)
        return heads.attention(tensors, f"{layer}.self_attn",
                               window=window if kind == "sliding_attention" else 0)  # fmt: skip

    def ffn(index: int, layer: str) -> Moe:
        moe = builder.moe(tensors, f"{layer}.mlp", True, _NAMES)
        return replace(moe, experts=replace(moe.experts, limit=limit, alpha=_ALPHA, up_add=1.0))

    return stack.trunk(tensors, stack.layers(tensors, mixer, ffn), rotation)
