"""Gemma 4 with experts: the text part of a multimodal checkpoint.

Layers with a sliding window and without one have heads of two sizes and rotations of two kinds;
those without take their values from the keys' projection. A dense network is beside the experts,
and norms are around everything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checkpoint import Checkpoint
from ..spec import Attention, Layer, Moe, Spec
from . import builder, stack, wrapped
from .attention import Heads
from .builder import MoeNames, Tensors
from .config import MAX_COUNT, MAX_EACH, MAX_HEAD_DIM, Config
from .rope import Rope, rope

MODEL_TYPES = ("gemma4", "gemma4_text")
_LOCAL, _GLOBAL = _KINDS = ("sliding_attention", "full_attention")
_ONE_WAY: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "enable_moe_block": (True,),
    "hidden_act": (),
    "hidden_activation": ("gelu_pytorch_tanh",),
    "hidden_size_per_layer_input": (0,),
    "model_type": ("gemma4_text",),
    "num_kv_shared_layers": (0,),
    "use_bidirectional_attention": ("vision",),  # of images alone
    "rope_scaling": (),
    "use_double_wide_mlp": (False,),
    "use_sliding_window": (False,),
}
_NAMES = MoeNames(router="router.proj", top_k="top_k_experts", stack="experts.switch_glu")
_NORMS = ("input_layernorm", "pre_feedforward_layernorm_2")
_PERIOD = 6  # of layers without a window, in a config that does not list them
# Rotations of a config without them: transformers'.
_ROTATIONS = {
    _LOCAL: {"rope_type": "default", "rope_theta": 10000.0},
    _GLOBAL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
}


def _layer_types(config: Config) -> list[str]:
    """The last layer has no window, whatever the config says: so has transformers it."""
    n_layers = config.count("num_hidden_layers", most=MAX_EACH)
    types = config.layer_types(_KINDS) or [
        _LOCAL if (index + 1) % _PERIOD else _GLOBAL for index in range(n_layers)
    ]
    return [*types[:-1], _GLOBAL]


def _global_sizes(config: Config, types: list[str]) -> Config:
    """The config of the layers without a window.

    Hub files have fields for it; transformers 5 writes the differences of each layer.
    """
    own: dict[str, Any] = {"head_dim": config.values.get("global_head_dim", 512)}
    if config.flag("attention_k_eq_v", False):
        own["num_key_value_heads"] = config.values.get("num_global_key_value_heads")
    by_layer = config.section("per_layer_config")
    if by_layer:
        own, *others = by_layer.values()
        numbers = {str(index) for index, kind in enumerate(types) if kind == _GLOBAL}
        known = isinstance(own, dict) and own.keys() <= {"head_dim", "num_key_value_heads"}
        if by_layer.keys() != numbers or any(other != own for other in others) or not known:
            raise config.bad("expected in per_layer_config one head_dim and one "
                             "num_key_value_heads, of the layers of full_attention")  # fmt: skip
    return config.with_values({key: value for key, value in own.items() if value is not None})


def _heads(config: Config, kind: str) -> tuple[Heads, Rope]:
    """The attention of the layers of a kind; `config` has their sizes."""
    settings = config.section("rope_parameters").get(kind, _ROTATIONS[kind])
    of_kind = config.with_values({"rope_parameters": settings, "rope_scaling": None})
    is_whole = of_kind.rotation.get("rope_type") != "proportional"
    head_dim = config.count("head_dim", most=MAX_HEAD_DIM)
    rotation = rope(of_kind, head_dim, 1.0, least=1.0 if is_whole else 0.0)
    alike = kind == _GLOBAL and config.flag("attention_k_eq_v", False)
    return Heads(config, rotation, keys_are_values=alike), rotation


def _moe(tensors: Tensors, layer: str) -> Moe:
    """The experts, the dense network beside them, and the norms around both."""
    config, d_model = tensors.config, tensors.d_model
    dense = builder.ffn(tensors, f"{layer}.mlp", config.count("intermediate_size"))
    moe = builder.moe(tensors, layer, True, _NAMES, (replace(dense, unit="gelu"), None))

    return replace(
        moe,
        experts=replace(moe.experts, unit="gelu"),
        expert_scale=tensors.vector(f"{layer}.router.per_expert_scale", moe.n_experts),
        router_norm=tensors.vector(f"{layer}.router.scale", d_model, mul=d_model**-0.5),
        shared_norm=tensors.vector(f"{layer}.pre_feedforward_layernorm.weight", d_model),
        shared_out_norm=tensors.vector(f"{layer}.post_feedforward_layernorm_1.weight", d_model),
        routed_norm=tensors.vector(f"{layer}.post_feedforward_layernorm_2.weight", d_model),
        combined_norm=tensors.vector(f"{layer}.post_feedforward_layernorm.weight", d_model),
        layer_scale=tensors.vector(f"{layer}.layer_scalar", 1),
    )


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Gemma4 checkpoint with experts (hub, MLX or text-only layout) to the spec."""
    config = wrapped.text_config(checkpoint)
    config.require(_ONE_WAY)
    config.need("enable_moe_block", "hidden_size_per_layer_input", "sliding_window", "head_dim")
    tensors = Tensors(checkpoint, config)
    names, types = wrapped.layout(tensors), _layer_types(config)
    heads = {_LOCAL: _heads(config, _LOCAL), _GLOBAL: _heads(_global_sizes(config, types), _GLOBAL)}
    width = config.count("sliding_window", most=MAX_COUNT)

    def mixer(kind: str, layer: str) -> Attention:
        of_kind, rotation = heads[kind]
        window = width if kind == _LOCAL else 0
        return replace(
            of_kind.attention(tensors, f"{layer}.self_attn", window=window),
            scale=1.0,
            value_norm=True,
            post_norm=tensors.vector(f"{layer}.post_attention_layernorm.weight", tensors.d_model),
            inv_freq=rotation.inv_freq,
        )

    def layer(index: int, kind: str) -> Layer:
        name = f"{names.prefix}layers.{index}"
        norm, ffn_norm = (tensors.vector(f"{name}.{part}.weight", tensors.d_model)
                          for part in _NORMS)  # fmt: skip
        return Layer(norm, mixer(kind, name), ffn_norm, _moe(tensors, name))

    layers = [layer(index, kind) for index, kind in enumerate(types)]
    tied = config.flag("tie_word_embeddings", True)
    model = stack.trunk(tensors, layers, heads[_LOCAL][1], names=names, tied=tied)
    softcap = config.number("final_logit_softcapping", 0.0, high=1e6)
    return replace(model, embed_scale=[tensors.d_model**0.5], softcap=softcap)
