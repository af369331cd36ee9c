"""What families share: sources of matrices, vectors, attention and experts.

A *source* is a plain dict that csrc/bindings/spec.cpp reads: where the bytes are, and their shape.
Quantisation is inferred from shapes and checked against config.json.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments import is_integer, show
from ..checkpoint import Checkpoint, Tensor, fail
from .config import MAX_EACH, Config
from .rope import Rope

Spec = dict[str, Any]
Source = dict[str, Any]
Rows = list[tuple[int, int]]

PLAIN = ("F32", "F16", "BF16")
# Tensors of the text part that mean nothing beside its config.
NEEDLESS = (".rotary_emb.inv_freq",)


class Tensors:
    """Builds sources from a checkpoint's tensor table."""

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self.checkpoint = checkpoint
        self.table = checkpoint.tensors
        self.config = config
        self.quantization = config.section("quantization") or config.section("quantization_config")
        method = self.quantization.get("quant_method")
        if method is not None:
            raise config.bad(f"expected weights that are plain or MLX's, found quant_method "
                             f"{show(method)}")  # fmt: skip
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor."""
        return name in self.table

    def get(self, name: str) -> Tensor:
        """The tensor of that name, or a FormatError."""
        if name not in self.table:
            raise fail("families", f"expected tensor {name!r}, found none", self.checkpoint.path)
        self._used.add(name)
        return self.table[name]

    def refuse_unused(self, parts: tuple[str, ...]) -> None:
        """Refuses a tensor below `parts` that nothing asked for: it is of another model.

        Raises:
            FormatError: there is one.
        """
        for name in self.table:
            if name.startswith(parts) and name not in self._used and not name.endswith(NEEDLESS):
                raise fail("families", f"expected no tensor that the config has no place for, "
                           f"found {show(name)}", self.checkpoint.path)  # fmt: skip

    def _bad(self, tensor: Tensor, what: str) -> Exception:
        return fail("families", f"{what} for {tensor.name!r}",
                    self.checkpoint.files[tensor.file])  # fmt: skip

    def _plain(self, tensor: Tensor) -> str:
        if tensor.dtype not in PLAIN:
            raise self._bad(tensor, f"expected dtype {', '.join(PLAIN)}, found {tensor.dtype}")
        return tensor.dtype

    def vector(self, name: str, count: int, add: float = 0.0) -> Source:
        """A small tensor of `count` numbers, kept as f32; `add` is added to each."""
        tensor = self.get(name)
        self._plain(tensor)
        if math.prod(tensor.shape) != count:
            raise self._bad(tensor, f"expected {count} numbers, found shape {list(tensor.shape)}")
        return {"tensor": _ref(tensor), "count": count, "add": add}

    def matrix(
        self, name: str, out: int, columns: int, rows: Rows | None = None, bias: bool = False
    ) -> Source:
        """A stored matrix [out, columns], or the `rows` (begin, count) of it, in that order."""
        weight = self.get(name + ".weight")
        source = {**self._shape(name, weight, (out, columns)), "weight": _ref(weight)}
        if source["bits"]:
            for part in ("scales", "biases"):
                source[part] = _ref(self.get(f"{name}.{part}"))
        if bias:
            tensor = self.get(name + ".bias")
            self._plain(tensor)
            if tensor.shape != (out,):
                raise self._bad(tensor, f"expected shape [{out}], found {list(tensor.shape)}")
            source["bias"] = _ref(tensor)
        if rows is not None:
            source["rows"] = rows
        return source

    def _shape(self, name: str, weight: Tensor, shape: tuple[int, ...]) -> Source:
        """Shape and format of a matrix (or a stack of them), inferred and cross-checked."""
        *lead, out, columns = shape
        source = {"out": out, "in": columns, "bits": 0, "group": 0}
        if not self.has(name + ".scales"):
            dtype = self._plain(weight)
            if weight.shape != shape:
                raise self._bad(weight, f"expected shape {list(shape)}, found {list(weight.shape)}")
            return {**source, "dtype": dtype}
        said = self._said(name)
        scales, biases = self.get(name + ".scales"), self.get(name + ".biases")
        if weight.dtype != "U32":
            raise self._bad(weight, f"expected packed codes in U32, found {weight.dtype}")
        if weight.shape[:-1] != (*lead, out):
            raise self._bad(weight, f"expected rows {[*lead, out]}, found {list(weight.shape)}")
        bits, rest = divmod(weight.shape[-1] * 32, columns)
        if rest or bits not in (2, 3, 4, 5, 6, 8):
            raise self._bad(weight, f"expected 2, 3, 4, 5, 6 or 8 bits for {columns} columns, "
                            f"found {weight.shape[-1]} words a row")  # fmt: skip
        n_groups = scales.shape[-1] if scales.shape else 0
        group = columns // n_groups if n_groups and columns % n_groups == 0 else 0
        if group not in (32, 64, 128):
            raise self._bad(scales, f"expected groups of 32, 64 or 128 in {columns} columns, "
                            f"found {n_groups} groups")  # fmt: skip
        for tensor in (scales, biases):
            if self._plain(tensor) != scales.dtype or tensor.shape != (*lead, out, n_groups):
                raise self._bad(tensor, f"expected {scales.dtype} {[*lead, out, n_groups]}, found "
                                f"{tensor.dtype} {list(tensor.shape)}")  # fmt: skip
        if said != (bits, group):
            raise self.config.bad(
                f"config says {show(said[0])} bits in groups of {show(said[1])} for {name}, "
                f"the tensor's shape says {bits} and {group}"
            )
        return {**source, "bits": bits, "group": group, "dtype": scales.dtype}

    def _said(self, name: str) -> tuple[Any, Any]:
        """Bits and group size that the config gives a quantised matrix."""
        override = self.quantization.get(name)
        said = override if isinstance(override, dict) else self.quantization
        mode = "none" if override is False else said.get("mode", "affine")
        if mode != "affine":
            raise self.config.bad(f"expected affine quantisation of {name}, found {show(mode)}")
        return said.get("bits", 4), said.get("group_size", 64)

    def experts(self, prefix: str, n_experts: int, d_ff: int, d_model: int) -> Source:
        """The routed experts of a layer, in whichever of the three layouts they are stored.

        `switch_mlp` is MLX's stack; a stack without that name is what `pack` makes of the others.
        """
        for stack in ("switch_mlp", "experts"):
            if self.has(f"{prefix}.{stack}.gate_proj.weight"):
                return {
                    key: self._stacked(f"{prefix}.{stack}.{key}_proj", n_experts, out, columns)
                    for key, out, columns in _expert_shapes(d_ff, d_model)
                }
        if self.has(f"{prefix}.experts.gate_up_proj"):
            return self._fused(f"{prefix}.experts", n_experts, d_ff, d_model)
        return {
            key: self._separate(f"{prefix}.experts.{{}}.{key}_proj", n_experts, out, columns)
            for key, out, columns in _expert_shapes(d_ff, d_model)
        }

    def _stacked(self, name: str, n_experts: int, out: int, columns: int) -> Source:
        weight = self.get(name + ".weight")
        source = self._shape(name, weight, (n_experts, out, columns))
        source["weight"] = _slices(weight, n_experts)
        if source["bits"]:
            source["scales"] = _slices(self.get(name + ".scales"), n_experts)
            source["biases"] = _slices(self.get(name + ".biases"), n_experts)
        return {**source, "module": name}

    def _fused(self, prefix: str, n_experts: int, d_ff: int, d_model: int) -> Source:
        both, down = self.get(f"{prefix}.gate_up_proj"), self.get(f"{prefix}.down_proj")
        for tensor, shape in (
            (both, (n_experts, 2 * d_ff, d_model)),
            (down, (n_experts, d_model, d_ff)),
        ):
            self._plain(tensor)
            if tensor.shape != shape:
                raise self._bad(tensor, f"expected {list(shape)}, found {list(tensor.shape)}")
        files, offsets, nbytes = _slices(both, n_experts)
        half = nbytes // 2
        plain = {"bits": 0, "group": 0, "dtype": both.dtype, "out": d_ff, "in": d_model}
        return {
            "gate": {**plain, "module": f"{prefix}.gate_proj", "weight": (files, offsets, half)},
            "up": {**plain, "module": f"{prefix}.up_proj",
                   "weight": (files, offsets + np.uint64(half), half)},
            "down": {**plain, "module": f"{prefix}.down_proj", "out": d_model, "in": d_ff,
                     "dtype": down.dtype, "weight": _slices(down, n_experts)},
        }  # fmt: skip

    def _separate(self, pattern: str, n_experts: int, out: int, columns: int) -> Source:
        names = [pattern.format(expert) for expert in range(n_experts)]
        shapes = [self._shape(n, self.get(n + ".weight"), (out, columns)) for n in names]
        for name, shape in zip(names, shapes, strict=True):
            if shape != shapes[0]:
                weight = self.get(name + ".weight")
                raise self._bad(weight, f"expected all experts as {shapes[0]}, found {shape}")
        source = dict(shapes[0], module=pattern.replace(".{}", ""))
        for part in ("weight", "scales", "biases") if source["bits"] else ("weight",):
            tensors = [self.get(f"{name}.{part}") for name in names]
            source[part] = (
                np.array([t.file for t in tensors], dtype=np.uint32),
                np.array([t.offset for t in tensors], dtype=np.uint64),
                tensors[0].nbytes,
            )
        return source


def _expert_shapes(d_ff: int, d_model: int) -> list[tuple[str, int, int]]:
    return [("gate", d_ff, d_model), ("up", d_ff, d_model), ("down", d_model, d_ff)]


def _ref(tensor: Tensor) -> tuple[str, int, int, int, str]:
    return (tensor.name, tensor.file, tensor.offset, tensor.nbytes, tensor.dtype)


def _slices(tensor: Tensor, n: int) -> tuple[Any, Any, int]:
    """(file, offset) of each of the n equal slices of a stacked tensor, and a slice's bytes."""
    nbytes = tensor.nbytes // n
    stride = np.uint64(tensor.stride or nbytes)
    offsets = np.uint64(tensor.offset) + np.arange(n, dtype=np.uint64) * stride
    return np.full(n, tensor.file, dtype=np.uint32), offsets, nbytes


class Attention:
    """Grouped-query attention with norms of queries and keys: one shape for all layers."""

    def __init__(self, config: Config, head_dim: int, rope: Rope, gated: bool) -> None:
        self.head_dim, self.rope, self.gated = head_dim, rope, gated
        self.d_model = config.count("hidden_size")
        self.bias = config.flag("attention_bias", False)
        self.n_heads = config.count("num_attention_heads", most=MAX_EACH)
        self.n_kv_heads = config.count("num_key_value_heads", self.n_heads, most=MAX_EACH)
        if self.n_heads % self.n_kv_heads:
            raise config.bad(f"expected heads in whole groups, found {self.n_heads} heads, "
                             f"{self.n_kv_heads} kv heads")  # fmt: skip
        # With gates q_proj holds [query | gate] for one head after the other.
        pairs = range(0, 2 * self.n_heads * head_dim, 2 * head_dim) if gated else ()
        self._queries = [(begin, head_dim) for begin in pairs] or None
        self._gates = [(begin + head_dim, head_dim) for begin in pairs]

    def source(self, tensors: Tensors, name: str, norm_add: float) -> Source:
        """The attention of a layer whose tensors' names begin with `name`."""
        rows, kv_rows = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        q_rows = 2 * rows if self.gated else rows

        def project(key: str, out: int, columns: int, part: Rows | None = None) -> Source:
            return tensors.matrix(f"{name}.{key}_proj", out, columns, part, self.bias)

        return {
            "q": project("q", q_rows, self.d_model, self._queries),
            **({"gate": project("q", q_rows, self.d_model, self._gates)} if self.gated else {}),
            "k": project("k", kv_rows, self.d_model),
            "v": project("v", kv_rows, self.d_model),
            "o": project("o", self.d_model, rows),
            "q_norm": tensors.vector(f"{name}.q_norm.weight", self.head_dim, norm_add),
            "k_norm": tensors.vector(f"{name}.k_norm.weight", self.head_dim, norm_add),
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "rotary_dim": self.rope.rotary_dim,
            "rope_scale": self.rope.scale,
        }


def moe(tensors: Tensors, config: Config, prefix: str, d_model: int, normalise: bool) -> Source:
    """The routed part of a Qwen MoE layer."""
    n_experts = config.count("num_experts", most=MAX_EACH)
    top_k = config.count("num_experts_per_tok")
    if top_k > n_experts:
        raise config.bad(f"expected num_experts_per_tok <= {n_experts} experts, found {top_k}")
    d_ff = config.count("moe_intermediate_size")
    return {
        "router": tensors.matrix(f"{prefix}.gate", n_experts, d_model),
        "n_experts": n_experts,
        "top_k": top_k,
        "normalise": normalise,
        "experts": tensors.experts(prefix, n_experts, d_ff, d_model),
    }


def ffn(tensors: Tensors, prefix: str, d_ff: int, d_model: int) -> Source:
    """A resident gated FFN: a dense layer's or a shared expert."""
    return {
        key: tensors.matrix(f"{prefix}.{key}_proj", out, columns)
        for key, out, columns in _expert_shapes(d_ff, d_model)
    }


def is_moe_layer(config: Config, layer: int) -> bool:
    """Transformers' rule for Qwen: mlp_only_layers and decoder_sparse_step."""
    dense = config.listed("mlp_only_layers", "whole numbers", is_integer) or []
    return layer not in dense and (layer + 1) % config.count("decoder_sparse_step", 1) == 0


def chunk(d_model: int) -> int:
    """Prefill rows a pass: a function of the model's width alone, so that no budget changes it.

    A multiple of 64. Wide models get 512, so that a usual prompt needs one sweep over the experts;
    for narrow ones the buffers of so many rows would outweigh the experts themselves.
    """
    return min(max(d_model // 4 // 64 * 64, 64), 512)


def trunk(
    tensors: Tensors,
    config: Config,
    norm_add: float,
    layers: list[Source],
    rope: Rope,
    prefix: str = "model.",
    head: str = "lm_head",
) -> Spec:
    """The spec around the layers: embedding, final norm, head, rotary frequencies.

    To be called last: tensors of the text part that are unused by then are refused.
    """
    vocab, d_model = config.count("vocab_size"), config.count("hidden_size")
    spec: Spec = {
        "vocab": vocab,
        "d_model": d_model,
        "eps": config.number("rms_norm_eps", 1e-6, high=0.1),  # above it, it drowns the signal
        "chunk": chunk(d_model),
        "embed": tensors.matrix(f"{prefix}embed_tokens", vocab, d_model),
        "final_norm": tensors.vector(f"{prefix}norm.weight", d_model, norm_add),
        "inv_freq": rope.inv_freq,
        "positions": rope.positions,
        "layers": layers,
    }
    text = tuple(f"{prefix}{part}." for part in ("embed_tokens", "layers", "norm"))
    if not config.flag("tie_word_embeddings", False):
        spec["head"] = tensors.matrix(head, vocab, d_model)
        text += (f"{head}.",)  # tied files may hold one, too
    tensors.refuse_unused(text)
    return spec
