"""How each family's checkpoints are laid out, in MLX's spelling: a row each.

A family is what its layers of each kind are made of, block after block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .blocks import Attention, Block, Convolution, DeltaNet, Mamba, Moe, Network, Norm, Scale
from .builder import Builder
from .shapes import EOS_ID, Config
from .weights import EXPERT_GAIN, MIXER_GAIN

Kinds = Callable[[Builder], list[str]]  # of layers, by keys of `Family.layers`
Layers = dict[str, tuple[Block, ...]]


@dataclass(frozen=True)
class Family:
    """Conventions of a `model_type`.

    Attributes:
        kinds: tells the kind of each layer.
        layers: by kind, the blocks of a layer.
        last: the entry of the last layer in `layer_types`, which transformers makes of any.
        outer: stands before all names, and the config is the text part of one with `wrapper`.
        prefix: stands behind `outer` and before all names but the head's.
        embedding, final_norm: their names behind that.
        embed_scale: the embedding is multiplied by the square root of the model's width.
        tied: releases have no head, and the final norm makes up for the embedding's level.
    """

    kinds: Kinds
    layers: Layers
    outer: str = ""
    wrapper: Config = field(default_factory=dict)
    prefix: str = "model."
    embedding: str = "embed_tokens"
    final_norm: str = "norm"
    embed_scale: bool = False
    tied: bool = False
    last: str = ""


def _alike(builder: Builder) -> list[str]:
    return ["full_attention"] * builder.count("num_hidden_layers")


def _by_interval(builder: Builder) -> list[str]:
    interval = builder.count("full_attention_interval")
    return ["full_attention" if (index + 1) % interval == 0 else "linear_attention"
            for index in range(builder.count("num_hidden_layers"))]  # fmt: skip


def _listed(key: str, n_dense: str = "") -> Kinds:
    """A kind a layer, listed in the field `key`; without one they are alike.

    Args:
        key: a list, or a text of a letter a layer.
        n_dense: the field of how many first layers are dense: their kinds begin with "dense ".
    """

    def kinds(builder: Builder) -> list[str]:
        listed = list(builder.config[key]) if key else _alike(builder)
        dense = builder.count(n_dense, 0) if n_dense else 0
        return [f"dense {kind}" if index < dense else kind for index, kind in enumerate(listed)]

    return kinds


def _crossed(
    norms: tuple[Block, Block], mixers: dict[str, Block], network: Block, dense: Block | None = None
) -> Layers:
    """Layers of a norm, the mixer of their kind, a norm and a network, which may be `dense`."""
    first, second = norms
    layers: Layers = {kind: (first, mixer, second, network) for kind, mixer in mixers.items()}
    if dense:
        layers |= {f"dense {kind}": (*parts[:-1], dense) for kind, parts in layers.items()}
    return layers


_LLAMA = (Norm("input_layernorm"), Norm("post_attention_layernorm", 1.0))
_QWEN_SHARED = Moe(shared=Network("shared_expert", "shared_expert_intermediate_size",
                                  gate="shared_expert_gate"))  # fmt: skip
_TWO = ("up_proj", "down_proj")
_SQUARES_GAIN = EXPERT_GAIN / 3  # none is negative, which tokens share, and weights sum to 2.5


def _qwen_hybrid(grouped: bool) -> Layers:
    linear = DeltaNet(grouped=grouped)
    mixers: dict[str, Block] = {"full_attention": Attention(gated=True), "linear_attention": linear}
    return _crossed(_LLAMA, mixers, _QWEN_SHARED)


def _gemma(attention: Attention) -> tuple[Block, ...]:
    """A layer whose mixer is `attention`: what is added goes through norms, which have the gain."""
    return (
        Norm("input_layernorm"),
        attention,
        Norm("post_attention_layernorm", gain=MIXER_GAIN),
        Norm("pre_feedforward_layernorm"),
        Network("mlp", "intermediate_size"),
        Norm("post_feedforward_layernorm_1"),
        Scale("router.scale", "hidden_size", 0.75, 1.25, constant=1.0),
        Scale("router.per_expert_scale", "num_experts", 0.75, 1.25),
        Norm("pre_feedforward_layernorm_2"),
        Moe("", "router.proj", router_scale=True, stack="experts.switch_glu",
            top_k="top_k_experts"),
        Norm("post_feedforward_layernorm_2"),
        Norm("post_feedforward_layernorm", gain=EXPERT_GAIN),
        Scale("layer_scalar", 1, 1.0, 1.0),
    )  # fmt: skip


_GEMMA_HEADS = Attention(query_gain=1.0, gain=1.0)
_GPT_OSS_HEADS = Attention(biased="qkvo", norms="", sinks=True)

FAMILIES: dict[str, Family] = {
    "qwen3_moe": Family(_alike, _crossed(_LLAMA, {"full_attention": Attention()}, Moe())),
    "qwen3_next": Family(_by_interval, _qwen_hybrid(grouped=True)),
    "qwen3_5_moe_text": Family(
        _by_interval, _qwen_hybrid(grouped=False), "language_model.", {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"], "eos_token_id": EOS_ID,
            "model_type": "qwen3_5_moe"}),
    "gpt_oss": Family(_listed("layer_types"), _crossed(
        _LLAMA, {"sliding_attention": _GPT_OSS_HEADS, "full_attention": _GPT_OSS_HEADS},
        Moe(router="router", biased=True, stack="experts", n_experts="num_local_experts",
            width="intermediate_size"))),
    "glm4_moe": Family(_listed("", "first_k_dense_replace"), _crossed(
        _LLAMA, {"full_attention": Attention(biased="qkv", norms="")},
        Moe(plain=True, selection_bias="gate.e_score_correction_bias",
            n_experts="n_routed_experts",
            shared=Network("shared_experts", "moe_intermediate_size")),
        Network("mlp", "intermediate_size"))),
    "gemma4_text": Family(
        _listed("layer_types"), {
            "sliding_attention": _gemma(_GEMMA_HEADS),
            "full_attention": _gemma(Attention(
                query_gain=1.0, gain=1.0, head_dim="global_head_dim",
                kv_heads="num_global_key_value_heads", keys_are_values=True))},
        "language_model.", {
            "architectures": ["Gemma4ForConditionalGeneration"], "eos_token_id": EOS_ID,
            "model_type": "gemma4"}, last="full_attention", embed_scale=True, tied=True),
    "lfm2_moe": Family(
        _listed("layer_types", "num_dense_layers"), _crossed(
            (Norm("operator_norm"), Norm("ffn_norm", 1.0)),
            {"conv": Convolution(), "full_attention": Attention(norms="{}_layernorm",
                                                                out="out_proj")},
            Moe("feed_forward.", selection_bias="expert_bias"),
            Network("feed_forward", "intermediate_size")),
        final_norm="embedding_norm", tied=True),
    "nemotron_h": Family(
        _listed("hybrid_override_pattern"), {
            "M": (Norm("norm"), Mamba()),
            "*": (Norm("norm"), Attention("mixer", norms="")),
            "E": (Norm("norm", 1.0), Moe(
                "mixer.", plain=True, selection_bias="gate.e_score_correction_bias",
                matrices=("fc1", "fc2"), n_experts="n_routed_experts",
                gain=_SQUARES_GAIN,
                shared=Network("shared_experts", "moe_shared_expert_intermediate_size", _TWO,
                               gain=_SQUARES_GAIN))),
            "-": (Norm("norm"), Network("mixer", "intermediate_size", _TWO, gain=_SQUARES_GAIN))},
        prefix="backbone.", embedding="embeddings", final_norm="norm_f"),
}  # fmt: skip
