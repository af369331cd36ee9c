"""LFM2: gated convolutions and attention, sigmoid router, dense first layers, a tied head."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Attention, GatedConvolution, GatedFfn, Moe, Spec
from . import builder, stack
from .attention import Heads, head_dim
from .builder import MoeNames, Tensors
from .config import MAX_EACH, ONE_WAY, Config
from .rope import rope

MODEL_TYPES = ("lfm2_moe",)
_KINDS = ("conv", "full_attention")
_NAMES = stack.Names(final_norm="embedding_norm", norms=("operator_norm", "ffn_norm"),
                     eps="norm_eps")  # fmt: skip
_EXPERTS = ("w1", "w3", "w2")
_SUM_EPS = 1e-6  # transformers': no config has it


def _layer_types(config: Config) -> list[str]:
    """Old files list the numbers of the layers with attention."""
    types = config.layer_types(_KINDS)
    if types is not None:
        return types
    n_layers = config.count("num_hidden_layers", most=MAX_EACH)
    full = config.listed("full_attn_idxs", f"layers below {n_layers}", range(n_layers).__contains__)
    if full is None:
        raise config.bad("expected layer_types, found none")
    return [_KINDS[index in full] for index in range(n_layers)]


def _convolution(tensors: Tensors, name: str) -> GatedConvolution:
    config, d_model = tensors.config, tensors.d_model
    width, biased = config.count("conv_L_cache", 3, minimum=2), config.flag("conv_bias", False)
    return GatedConvolution(
        inputs=tensors.matrix(f"{name}.in_proj", 3 * d_model, d_model, None, biased),
        out=tensors.matrix(f"{name}.out_proj", d_model, d_model, None, biased),
        conv=tensors.vector(f"{name}.conv.weight", d_model * width),
        conv_bias=tensors.vector(f"{name}.conv.bias", d_model) if biased else None,
        conv_width=width,
    )


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Lfm2MoeForCausalLM checkpoint (hub or MLX layout) to the spec."""
    config = Config(checkpoint)
    config.require(ONE_WAY)
    config.need("norm_eps", "rope_theta", "num_dense_layers")
    tensors = Tensors(checkpoint, config)
    types, n_dense = _layer_types(config), config.count("num_dense_layers", minimum=0)
    rotation = rope(config, head_dim(config), 1.0, least=1.0)
    heads = Heads(config, rotation, biased="", names=("out_proj", "{}_layernorm"))
    bias = "expert_bias" if config.flag("use_expert_bias", True) else None
    experts = MoeNames(selection_bias=bias, experts=_EXPERTS)
    steps = builder.sigmoid_steps(config, "routed_scaling_factor") | {"sum_eps": _SUM_EPS}

    def mixer(index: int, layer: str) -> Attention | GatedConvolution:
        if types[index] == "conv":
            return _convolution(tensors, f"{layer}.conv")
        return heads.attention(tensors, f"{layer}.self_attn")

    def ffn(index: int, layer: str) -> Moe | GatedFfn:
        name = f"{layer}.feed_forward"
        if index < n_dense:
            return builder.ffn(tensors, name, config.count("intermediate_size"), _EXPERTS)
        return builder.moe(tensors, name, config.flag("norm_topk_prob", True), experts, **steps)

    layers = stack.layers(tensors, mixer, ffn, _NAMES)
    tied = config.flag("tie_embedding", config.flag("tie_word_embeddings", True))
    return stack.trunk(tensors, layers, rotation, names=_NAMES, tied=tied)
