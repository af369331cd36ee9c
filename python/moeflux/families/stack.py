"""How layers stand one on another: which have experts, the norms around them, the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .. import spec
from ..arguments import is_integer
from .builder import Tensors
from .config import MAX_EACH, Config
from .rope import Rope


@dataclass(frozen=True)
class Names:
    """How a family names what is around its layers: as Llama's, unless it says otherwise.

    Attributes:
        prefix: stands before the names of the text part's tensors.
        head: the output's matrix.
        embedding: the embedding, below `prefix`.
        final_norm: the norm before it, below `prefix`.
        norms: those of a layer, of its mixer and of its network.
        eps: the config's field.
    """

    prefix: str = "model."
    head: str = "lm_head"
    embedding: str = "embed_tokens"
    final_norm: str = "norm"
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    eps: str = "rms_norm_eps"


LLAMA = Names()


def moe_layers(config: Config) -> frozenset[int]:
    """Layers with experts, by transformers' rule for Qwen: mlp_only_layers, decoder_sparse_step."""
    dense = config.listed("mlp_only_layers", "whole numbers", is_integer) or []
    if len(dense) > MAX_EACH:
        raise config.bad(f"expected at most {MAX_EACH} mlp_only_layers, found {len(dense)}")
    n_layers = config.count("num_hidden_layers", most=MAX_EACH)
    step = config.count("decoder_sparse_step", 1)
    return frozenset(range(step - 1, n_layers, step)) - frozenset(dense)


def layers(
    tensors: Tensors, mixer: Callable[[int, str], spec.Mixer],
    ffn: Callable[[int, str], spec.Moe | spec.GatedFfn], names: Names = LLAMA,
) -> list[spec.Layer]:  # fmt: skip
    """Layers of a norm, a mixer, a norm, a network.

    `mixer` and `ffn` make them of a layer's number and its name.
    """

    def layer(index: int) -> spec.Layer:
        name = f"{names.prefix}layers.{index}"
        norm, ffn_norm = (tensors.vector(f"{name}.{part}.weight", tensors.d_model)
                          for part in names.norms)  # fmt: skip
        return spec.Layer(norm, mixer(index, name), ffn_norm, ffn(index, name))

    return [layer(i) for i in range(tensors.config.count("num_hidden_layers", most=MAX_EACH))]


def sparse_layers(config: Config, first: int = 1) -> frozenset[int]:
    """Layers with experts: those of `mlp_layer_types`, or all behind `first_k_dense_replace`.

    `first` stands for that where the config does not say it.
    """
    n_layers = config.count("num_hidden_layers", most=MAX_EACH)
    kinds = ("dense", "sparse")
    types = config.listed("mlp_layer_types", " or ".join(kinds), kinds.__contains__)
    if types is None:
        return frozenset(range(config.count("first_k_dense_replace", first, minimum=0), n_layers))
    if len(types) != n_layers:
        raise config.bad(f"expected {n_layers} mlp_layer_types, found {len(types)}")
    return frozenset(layer for layer, kind in enumerate(types) if kind == "sparse")


def later_layers(config: Config) -> range:
    """Layers that predict more than the next token."""
    first = config.count("num_hidden_layers", most=MAX_EACH)
    n = config.count("num_nextn_predict_layers", 0, minimum=0, most=MAX_EACH)
    return range(first, first + n)


def chunk(d_model: int) -> int:
    """Prefill rows a pass: a function of the model's width alone, so that no budget changes it.

    A multiple of 64. Wide models get 512, so that a usual prompt needs one sweep over the experts;
    for narrow ones the buffers of so many rows would outweigh the experts themselves.
    """
    return min(max(d_model // 4 // 64 * 64, 64), 512)


def trunk(
    tensors: Tensors,
    layers: list[spec.Layer],
    rope: Rope,
    norm_add: float = 0.0,
    names: Names = LLAMA,
    others: range = range(0),
    tied: bool | None = None,
) -> spec.Spec:
    """The spec around the layers: embedding, final norm, head, rotary frequencies.

    To be called last: tensors of the text part that are unused by then are refused, but not those
    of the layers `others`. Whether the head is `tied` the config says where nothing else does.
    """
    config, d_model, prefix = tensors.config, tensors.d_model, names.prefix
    vocab = config.count("vocab_size")
    tied = config.flag("tie_word_embeddings", False) if tied is None else tied
    model = spec.Spec(
        vocab=vocab,
        d_model=d_model,
        eps=config.number(names.eps, 1e-6, high=0.1),  # above it, it drowns the signal
        chunk=chunk(d_model),
        embed=tensors.matrix(f"{prefix}{names.embedding}", vocab, d_model),
        final_norm=tensors.vector(f"{prefix}{names.final_norm}.weight", d_model, norm_add),
        inv_freq=rope.inv_freq,
        positions=rope.positions,
        layers=layers,
        head=None if tied else tensors.matrix(names.head, vocab, d_model),
    )
    text = tuple(f"{prefix}{part}." for part in (names.embedding, "layers", names.final_norm))
    # Tied files may hold a head, too.
    tensors.refuse_unused(text if tied else (*text, f"{names.head}."), f"{prefix}layers.", others)
    return model
