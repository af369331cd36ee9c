"""Nemotron-H with experts: Mamba-2, attention without positions, networks of squared ReLU.

A layer is one of these: it has a mixer or a network, and one norm.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..arguments import show
from ..checkpoint import Checkpoint
from ..spec import GatedFfn, Layer, Mamba2, Mixer, Moe, Nothing, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import MAX_EACH, MAX_HEAD_DIM, ONE_WAY, Config
from .rope import unrotated

MODEL_TYPES = ("nemotron_h",)
_MAMBA, _ATTENTION, _MOE, _DENSE = "M*E-"  # as hub files have them, a letter a layer
# As transformers 5 writes them.
_KINDS = {"linear_attention": _MAMBA, "mamba": _MAMBA, "full_attention": _ATTENTION,
          "attention": _ATTENTION, "moe": _MOE, "mlp": _DENSE}  # fmt: skip
_ONE_WAY = ONE_WAY | {
    "attention_bias": (False,),
    "layer_types": (),
    "mamba_hidden_act": ("silu",),
    "mamba_proj_bias": (False,),
    "mlp_bias": (False,),
    "mlp_hidden_act": ("relu2",),
    "n_shared_experts": (1,),
    "rope_scaling": (),
    "sliding_window": (),
    "use_bias": (False,),
}
_NAMES = stack.Names(prefix="backbone.", embedding="embeddings", final_norm="norm_f",
                     eps="layer_norm_epsilon")  # fmt: skip
_UNIT, _MATRICES = "relu2", ("up_proj", "down_proj")
_EXPERTS = MoeNames(selection_bias="gate.e_score_correction_bias", n_experts="n_routed_experts",
                    experts=_MATRICES, stacked=("fc1", "fc2"))  # fmt: skip


def _pattern(config: Config) -> str:
    """The kind of each layer, a letter each."""
    kinds = config.listed("layers_block_type", " or ".join(_KINDS), tuple(_KINDS).__contains__)
    pattern = config.values.get("hybrid_override_pattern")
    if pattern is None and kinds is not None:
        pattern = "".join(map(_KINDS.__getitem__, kinds))
    letters = set(_KINDS.values())
    if not isinstance(pattern, str) or not pattern or not letters.issuperset(pattern):
        raise config.bad(f"expected a hybrid_override_pattern of M, *, E and -, or a list "
                         f"layers_block_type, found {show(pattern)}")  # fmt: skip
    if kinds is not None and [_KINDS[kind] for kind in kinds] != list(pattern):
        raise config.bad("expected layers_block_type to say what hybrid_override_pattern says")
    n_layers = config.count("num_hidden_layers", len(pattern), most=MAX_EACH)
    if len(pattern) != n_layers:
        raise config.bad(f"expected kinds of {n_layers} layers, found {len(pattern)}")
    return pattern


def _require_open_steps(config: Config) -> None:
    """Refuses a limit of steps: the engine has none, as the checkpoints have none."""
    limit = config.values.get("time_step_limit")
    if limit is None:
        return
    if (
        not isinstance(limit, list)
        or len(limit) != 2
        or limit[0] != 0
        or not _is_infinite(limit[1])
    ):
        raise config.bad(f"expected time_step_limit from 0 without an end, found {show(limit)}")


def _is_infinite(value: Any) -> bool:
    """In transformers' way of writing what JSON has no number for, too."""
    if isinstance(value, dict):
        return value == {"__float__": "Infinity"}
    return isinstance(value, float) and value == math.inf


def _mamba(tensors: Tensors, name: str) -> Mamba2:
    config, d_model = tensors.config, tensors.d_model
    heads, groups = (config.count(key, most=MAX_EACH) for key in ("mamba_num_heads", "n_groups"))
    dim, state = (config.count(key, most=MAX_HEAD_DIM)
                  for key in ("mamba_head_dim", "ssm_state_size"))  # fmt: skip
    if heads % groups:
        raise config.bad(f"expected n_groups that divides {heads} mamba_num_heads, found {groups}")
    width = config.count("conv_kernel", minimum=2)
    values, channels = heads * dim, heads * dim + 2 * groups * state
    rows = [(0, values), (values, channels), (values + channels, heads)]
    z, inputs, steps = (
        tensors.matrix(f"{name}.in_proj", values + channels + heads, d_model, [part])
        for part in rows
    )
    biased = config.flag("use_conv_bias", True)
    return Mamba2(
        inputs=inputs,
        z=z,
        steps=steps,
        out=tensors.matrix(f"{name}.out_proj", d_model, values),
        conv=tensors.vector(f"{name}.conv1d.weight", channels * width),
        conv_bias=tensors.vector(f"{name}.conv1d.bias", channels) if biased else None,
        a_log=tensors.vector(f"{name}.A_log", heads),
        dt_bias=tensors.vector(f"{name}.dt_bias", heads),
        skip=tensors.vector(f"{name}.D", heads),
        out_norm=tensors.vector(f"{name}.norm.weight", values),
        n_heads=heads,
        head_dim=dim,
        n_groups=groups,
        state_dim=state,
        conv_width=width,
    )


def _moe(tensors: Tensors, name: str) -> Moe:
    config, d_model, latent = tensors.config, tensors.d_model, 0
    width = config.count("moe_shared_expert_intermediate_size")
    shared = builder.ffn(tensors, f"{name}.shared_experts", width, _MATRICES, _UNIT)
    steps = builder.sigmoid_steps(config, "routed_scaling_factor")
    if config.values.get("moe_latent_size") is not None:
        latent = config.count("moe_latent_size")
        steps["latent_in"] = tensors.matrix(f"{name}.fc1_latent_proj", latent, d_model)
        steps["latent_out"] = tensors.matrix(f"{name}.fc2_latent_proj", d_model, latent)
    normalise = config.flag("norm_topk_prob", True)
    moe = builder.moe(tensors, name, normalise, _EXPERTS, (shared, None), latent, **steps)
    return replace(moe, experts=replace(moe.experts, unit=_UNIT))


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a NemotronHForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(_ONE_WAY)
    config.need("layer_norm_epsilon", "head_dim")
    _require_open_steps(config)
    tensors, pattern = Tensors(checkpoint, config), _pattern(config)
    none = unrotated(config, head_dim(config))
    heads = Heads(config, none, norms=None, biased="")

    def layer(index: int, kind: str) -> Layer:
        base = f"{_NAMES.prefix}layers.{index}"
        name = f"{base}.mixer"
        norm = tensors.vector(f"{base}.norm.weight", tensors.d_model)
        mixer: Mixer | None = None
        if kind == _MAMBA:
            mixer = _mamba(tensors, name)
        if kind == _ATTENTION:
            mixer = heads.attention(tensors, name)
        if mixer is not None:
            return Layer(norm, mixer, None, Nothing())
        ffn: Moe | GatedFfn = (
            _moe(tensors, name) if kind == _MOE
            else builder.ffn(tensors, name, config.count("intermediate_size"), _MATRICES, _UNIT)
        )  # fmt: skip
        return Layer(None, Nothing(), norm, ffn)

    layers = [layer(index, kind) for index, kind in enumerate(pattern)]
    return stack.trunk(tensors, layers, none, names=_NAMES)
