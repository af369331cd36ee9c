"""GPT-OSS: sinks, every second layer with a sliding window, clamped experts, biases everywhere.

MLX's layout: the hub's has gate and up interleaved, or transposed, which nothing here reads.
"""

from __future__ import annotations

from dataclasses import replace

from ..checkpoint import Checkpoint, fail
from ..spec import Attention, Moe, Spec
from . import builder
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import MAX_COUNT, ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("gpt_oss",)
_NAMES = MoeNames(router="router", n_experts="num_local_experts", d_ff="intermediate_size",
                  biased=True)  # fmt: skip
_KINDS = ("sliding_attention", "full_attention")
_ALPHA = 1.702  # no config has it
_OTHER_LAYOUTS = ("gate_up_proj", "gate_up_proj_blocks")


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a GptOssForCausalLM checkpoint (MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY | {"attention_bias": (True,)})
    config.need("rms_norm_eps", "rope_theta")
    if config.rotation.get("rope_type") is None:  # transformers: YaRN, which MLX has not
        raise config.bad("expected rope_type in rope_scaling, found none")
    tensors = Tensors(checkpoint, config)
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
        for part in _OTHER_LAYOUTS:
            if tensors.has(f"{layer}.mlp.experts.{part}"):
                raise fail("families", f"expected experts in MLX's layout (gate_proj, up_proj), "
                           f"found {part}, which is not read yet", checkpoint.path)  # fmt: skip
        moe = builder.moe(tensors, f"{layer}.mlp", True, _NAMES)
        return replace(moe, experts=replace(moe.experts, limit=limit, alpha=_ALPHA, up_add=1.0))

    return builder.trunk(tensors, builder.layers(tensors, mixer, ffn), rotation)
