"""What families share: matrices, vectors, experts and layers of a checkpoint as parts of a spec.

Quantisation is what config.json says; the tensors' shapes are checked against it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import spec
from ..arguments import show
from ..checkpoint import Checkpoint, Tensor, fail
from ..formats import BYTE_SCALES, NVFP4, PLAIN, TABLE, of_blocks
from ..spec import Rows, Slices
from . import methods
from .config import MAX_EACH, Config
from .quantised import quantised, whole_groups

# Tensors of the text part that mean nothing beside its config.
NEEDLESS = (".rotary_emb.inv_freq",)
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,6})\.")  # of a layer, as its tensors' names have it
Biases = dict[str, spec.Vector]  # of experts, by the fields of `spec.Moe`
_QWEN = spec.GLU_NAMES


@dataclass(frozen=True)
class MoeNames:
    """How a family names the parts of an MoE layer: Qwen's names, unless it says otherwise.

    Attributes:
        router: the router's matrix, below the layer's MoE module.
        selection_bias: the tensor that joins the scores for the choice, below the same; or none.
        experts: gate, up and down of an expert, or two that have nothing between them.
        stacked: the same in MLX's stacks, which have Qwen's names in almost every family.
        n_experts: the config's field of the number of experts.
        d_ff: that of an expert's width.
        top_k: that of how many experts a token has.
        stack: the module of MLX's stacks of experts.
        biased: router and experts have biases.
    """

    router: str = "gate"
    selection_bias: str | None = None
    experts: tuple[str, ...] = _QWEN
    stacked: tuple[str, ...] = _QWEN
    n_experts: str = "num_experts"
    d_ff: str = "moe_intermediate_size"
    top_k: str = "num_experts_per_tok"
    stack: str = "switch_mlp"
    biased: bool = False


class Tensors:
    """Builds matrices and vectors from a checkpoint's tensor table; `reads`: quant_methods."""

    def __init__(
        self, checkpoint: Checkpoint, config: Config, reads: tuple[str, ...] = methods.METHODS
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.d_model = config.count("hidden_size")
        self.quantization = config.section("quantization") or config.section("quantization_config")
        self.method = self.quantization.get("quant_method")
        self._form, self.table = methods.as_planes(checkpoint, config, self.quantization, reads)
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor."""
        return name in self.table

    def is_packed(self, name: str) -> bool:
        """Whether a matrix is of integers or blocks: none that `vector` reads."""
        is_float = self._form is not None and TABLE[self._form[0]].are_floats
        is_float &= not self.has(f"{name}.supers")
        weight = self.table.get(f"{name}.weight")
        return (self.has(f"{name}.scales") and not is_float) or bool(weight and weight.blocks)

    def get(self, name: str) -> Tensor:
        """The tensor of that name, or a FormatError."""
        if name not in self.table:
            raise fail("families", f"expected tensor {name!r}, found none", self.checkpoint.path)
        self._used.add(name)
        return self.table[name]

    def refuse_unused(self, parts: tuple[str, ...], layers: str, others: range) -> None:
        """Refuses a tensor below `parts` that nothing asked for: it is of another model.

        Those of the layers `others`, whose names begin with `layers`, are of other parts.

        Raises:
            FormatError: there is one.
        """
        for name in self.table:
            if name in self._used or not name.startswith(parts) or name.endswith(NEEDLESS):
                continue
            number = _NUMBER.match(name, len(layers)) if name.startswith(layers) else None
            if number is None or int(number[1]) not in others:
                raise fail("families", f"expected no tensor that the config has no place for, "
                           f"found {show(name)}", self.checkpoint.path)  # fmt: skip

    def _bad(self, tensor: Tensor, what: str) -> Exception:
        return fail("families", f"{what} for {tensor.name!r}",
                    self.checkpoint.files[tensor.file])  # fmt: skip

    def _plain(self, tensor: Tensor) -> str:
        if tensor.dtype not in PLAIN:
            raise self._bad(tensor, f"expected dtype {', '.join(PLAIN)}, found {tensor.dtype}")
        return tensor.dtype

    def vector(self, name: str, count: int, add: float = 0.0, mul: float = 1.0) -> spec.Vector:
        """A small tensor of `count` numbers, kept as f32, times `mul` plus `add`."""
        tensor, module = self.get(name), name.removesuffix(".weight")
        if math.prod(tensor.shape) != count:
            raise self._bad(tensor, f"expected {count} numbers, found shape {list(tensor.shape)}")
        if self._form and TABLE[self._form[0]].are_floats and self.has(f"{module}.scales"):
            out = tensor.shape[0] if len(tensor.shape) == 2 else 1
            matrix = self.matrix(module, out, count // out)
            return spec.Vector(tensor, count, add, mul=mul, matrix=matrix)
        self._plain(tensor)
        return spec.Vector(tensor, count, add, tensor.numbers, mul)

    def sliced(self, parts: dict[str, tuple[int, int, bool]], n: int) -> spec.Vector:
        """A vector of n slices of each of the matrices `parts`, in turns, kept as f32.

        A slice is stored as (rows, columns); `turned`: the vector holds its transpose. Stacks
        [n, rows, columns] and matrices of n times the rows are the same.
        """
        stacks, count = [], 0
        for name, (rows, columns, turned) in parts.items():
            is_stack = len(self.get(f"{name}.weight").shape) == 3
            stored = (n, rows, columns) if is_stack else (n * rows, columns)
            shape = replace(self._shape(name, stored), out=n * rows)
            tensors = {part: self.get(f"{name}.{part}") for part in shape.tensors}
            stacks.append(spec.Stack(spec.Matrix(**vars(shape) | tensors), turned))
            count += n * rows * columns
        tensor = stacks[0].matrix.weight
        return spec.Vector(tensor, count, 0.0, stacks=stacks, slices=n)

    def matrix(
        self, name: str, out: int, columns: int, rows: Rows | None = None, bias: bool = False
    ) -> spec.Matrix:
        """A stored matrix [out, columns], or the `rows` (begin, count) of it, in that order."""
        stored = self.get(f"{name}.weight")
        if stored.rows is not None and rows is None:
            out, rows = self._stored_rows(stored, out), list(stored.rows)
        shape = self._shape(name, (out, columns))
        parts: dict[str, Any] = {part: self.get(f"{name}.{part}") for part in shape.tensors}
        if bias:
            parts["bias"] = tensor = self.get(name + ".bias")
            self._plain(tensor)
            if tensor.shape != (out,):
                raise self._bad(tensor, f"expected shape [{out}], found {list(tensor.shape)}")
        return spec.Matrix(**vars(shape) | parts, rows=rows)

    def _stored_rows(self, tensor: Tensor, out: int) -> int:
        """Rows of a stored matrix that stands for `out` rows."""
        found = sum(count for _, count in tensor.rows or ())
        if found != out:
            raise self._bad(tensor, f"expected {out} rows, found {found}")
        return tensor.shape[0]

    def _shape(self, name: str, stored: tuple[int, ...]) -> spec.Shape:
        """Shape and format of a matrix (or a stack of them): what the config says, checked."""
        *lead, out, columns = stored
        if self.has(name + ".scales"):
            form, group = self._said(name, columns)
            dtype = "F32" if form in BYTE_SCALES else self._plain(self.get(name + ".scales"))
            said = (form, group, dtype)
        elif blocks := self.get(name + ".weight").blocks:
            said = of_blocks(blocks)
        else:
            dtype = self._plain(self.get(name + ".weight"))
            said = (dtype.lower(), 0, dtype)
        shape = spec.Shape(out, columns, *said)
        for part, of in shape.tensors.items():
            tensor, expected = self.get(f"{name}.{part}"), (*lead, *of.shape(out))
            if (tensor.dtype, tensor.shape) != (of.dtype, expected):
                form = f" ({said[0]} in groups of {said[1]}, by config.json)" if said[1] else ""
                raise self._bad(tensor, f"expected {of.dtype} {list(expected)}{form}, found "
                                f"{tensor.dtype} {list(tensor.shape)}")  # fmt: skip
        return shape

    def _said(self, name: str, columns: int) -> tuple[str, int]:
        """Format and group size that the config gives a quantised matrix."""
        if self._form is not None:
            form, group = self._form
            if self.has(f"{name}.supers"):
                form, group = NVFP4.format, NVFP4.group
            if not TABLE[form].are_floats:
                whole_groups(self.config, name, columns, group)
            return form, group
        override = self.quantization.get(name)
        said = override if isinstance(override, dict) else self.quantization
        if override is False:
            said = {"mode": "none"}
        return quantised(self.config, name, columns, said)

    def experts(
        self, prefix: str, names: MoeNames, n_experts: int, d_ff: int, d_in: int = 0
    ) -> spec.Experts:
        """The routed experts of a layer, in whichever of the three layouts they are stored.

        `names.stack` is MLX's; a stack without that name is what `pack` makes of the others.
        Experts that are not as wide as the model are of the width `d_in`.
        """
        if self.has(f"{prefix}.experts.gate_up_proj"):
            return self._fused(f"{prefix}.experts", n_experts, d_ff)
        module, own = f"{prefix}.experts", names.experts
        if self.has(f"{prefix}.{names.stack}.{names.stacked[0]}.weight"):
            module, own = f"{prefix}.{names.stack}", names.stacked
        is_stack = self.has(f"{module}.{own[0]}.weight")

        def matrix(name: str, out: int, columns: int) -> spec.ExpertMatrix:
            if is_stack:
                return self._stacked(f"{module}.{name}", n_experts, out, columns)
            return self._separate(f"{module}.{{}}.{name}", n_experts, out, columns)

        (gate, *ups, down), d_model = own, d_in or self.d_model
        up = matrix(ups[0], d_ff, d_model) if ups else None
        return spec.Experts(gate=matrix(gate, d_ff, d_model), up=up,
                            down=matrix(down, d_model, d_ff))  # fmt: skip

    def expert_biases(self, module: str, names: MoeNames, n_experts: int, d_ff: int) -> Biases:
        """The biases of a layer's experts."""
        parts = {"gate": d_ff, "up": d_ff, "down": self.d_model}
        return {f"{part}_bias": self.vector(f"{module}.{own}.bias", n_experts * out)
                for own, (part, out) in zip(names.experts, parts.items(), strict=True)}  # fmt: skip

    def _stacked(self, name: str, n_experts: int, out: int, columns: int) -> spec.ExpertMatrix:
        shape = self._shape(name, (n_experts, out, columns))
        parts = {part: slices(self.get(f"{name}.{part}"), n_experts) for part in shape.tensors}
        return spec.ExpertMatrix(**vars(shape) | parts, module=name)

    def _fused(self, prefix: str, n_experts: int, d_ff: int) -> spec.Experts:
        gate, up = self._halves(f"{prefix}.gate_up_proj", n_experts, (d_ff, self.d_model),
                                (f"{prefix}.gate_proj", f"{prefix}.up_proj"))  # fmt: skip
        name = f"{prefix}.down_proj"
        (down,) = self._halves(name, n_experts, (self.d_model, d_ff), (name,))
        return spec.Experts(gate=gate, up=up, down=down)

    def _halves(self, name: str, n_experts: int, size: tuple[int, int],
                modules: tuple[str, ...]) -> list[spec.ExpertMatrix]:  # fmt: skip
        """Matrices of each expert that lie in one tensor behind each other; scales are of all."""
        stored, (out, columns) = self.get(name), size
        has_scales = self._form is not None and self.has(f"{name}.scales")
        scales = self.get(f"{name}.scales") if has_scales else None
        said = (stored.dtype.lower(), 0, stored.dtype)
        if scales and self._form:
            said = (*self._form, self._plain(scales))
        else:
            self._plain(stored)
        shape = spec.Shape(out, columns, *said)
        shapes = {"weight": (stored, (n_experts, len(modules) * out, columns))}
        if scales:
            shapes["scales"] = (scales, (n_experts, *shape.tensors["scales"].shape(out)))
        for part, (tensor, expected) in shapes.items():
            dtype = shape.tensors[part].dtype
            if (tensor.dtype, tensor.shape) != (dtype, expected):
                raise self._bad(tensor, f"expected {dtype} {list(expected)}, found {tensor.dtype} "
                                f"{list(tensor.shape)}")  # fmt: skip
        files, offsets, nbytes = slices(stored, n_experts)
        own = nbytes // len(modules)
        of_all: dict[str, Any] = {"scales": slices(scales, n_experts)} if scales else {}
        return [spec.ExpertMatrix(**vars(shape) | of_all, module=module,
                                  weight=Slices(files, offsets + np.uint64(i * own), own))
                for i, module in enumerate(modules)]  # fmt: skip

    def _separate(self, pattern: str, n_experts: int, out: int, columns: int) -> spec.ExpertMatrix:
        names = [pattern.format(expert) for expert in range(n_experts)]
        first, *others = [self._shape(name, (out, columns)) for name in names]
        for name, shape in zip(names[1:], others, strict=True):
            if shape != first:
                raise self._bad(self.get(name + ".weight"),
                                f"expected all experts as {first}, found {shape}")  # fmt: skip
        parts = {}
        for part in first.tensors:
            tensors = [self.get(f"{name}.{part}") for name in names]
            parts[part] = Slices(np.array([t.file for t in tensors], dtype=np.uint32),
                                 np.array([t.offset for t in tensors], dtype=np.uint64),
                                 tensors[0].nbytes)  # fmt: skip
        return spec.ExpertMatrix(**vars(first) | parts, module=pattern.replace(".{}", ""))


def slices(tensor: Tensor, n: int) -> Slices:
    """The n equal slices of a stacked tensor."""
    nbytes = tensor.nbytes // n
    stride = np.uint64(tensor.stride or nbytes)
    offsets = np.uint64(tensor.offset) + np.arange(n, dtype=np.uint64) * stride
    return Slices(np.full(n, tensor.file, dtype=np.uint32), offsets, nbytes)


def moe(
    tensors: Tensors, prefix: str, normalise: bool, names: MoeNames = MoeNames(),
    shared: tuple[spec.GatedFfn | None, spec.Matrix | None] = (None, None), d_in: int = 0,
    **steps: Any,
) -> spec.Moe:  # fmt: skip
    """The experts of a layer, their router, and the `shared` expert with its gate.

    `d_in` is as for `Tensors.experts`.
    `steps` are those of the router that are not a softmax's: fields of `spec.Moe`.
    """
    config = tensors.config
    n_experts = config.count(names.n_experts, most=MAX_EACH)
    top_k = config.count(names.top_k)
    if top_k > n_experts:
        raise config.bad(f"expected {names.top_k} <= {n_experts} experts, found {top_k}")
    d_ff = config.count(names.d_ff)
    router = tensors.matrix(f"{prefix}.{names.router}", n_experts, tensors.d_model, None,
                            names.biased)  # fmt: skip
    experts = replace(tensors.experts(prefix, names, n_experts, d_ff, d_in), stack=names.stack,
                      stacked=list(names.stacked))  # fmt: skip
    if names.biased:
        steps |= tensors.expert_biases(f"{prefix}.experts", names, n_experts, d_ff)
    if names.selection_bias:
        steps["selection_bias"] = tensors.vector(f"{prefix}.{names.selection_bias}", n_experts)
    return spec.Moe(router, n_experts, top_k, normalise, experts, *shared, **steps)


def qwen_moe(tensors: Tensors, prefix: str, normalise: bool) -> spec.Moe:
    """Experts under Qwen's names, with a shared one whose output goes through a sigmoid."""
    d_shared = tensors.config.count("shared_expert_intermediate_size")
    shared = ffn(tensors, f"{prefix}.shared_expert", d_shared)
    gate = tensors.matrix(f"{prefix}.shared_expert_gate", 1, tensors.d_model)
    return moe(tensors, prefix, normalise, shared=(shared, gate))


def sigmoid_steps(config: Config, scale: str) -> dict[str, Any]:
    """The steps of a router of sigmoid scores: groups, as DeepSeek names them, and a factor.

    Args:
        config: of the family.
        scale: the field of the factor.
    """
    return {
        "score": "sigmoid",
        "n_groups": config.count("n_group", 1, most=MAX_EACH),
        "top_groups": config.count("topk_group", 1, most=MAX_EACH),
        "sum_eps": 1e-20,
        "scale": config.number(scale, 1.0, high=1e6),
    }


def ffn(
    tensors: Tensors, prefix: str, d_ff: int, names: tuple[str, ...] = _QWEN, unit: str = "silu"
) -> spec.GatedFfn:
    """A resident FFN: a dense layer's or a shared expert. MLX's have Qwen's `names`.

    Of two names there is nothing between the first matrix and the last.
    """
    d_model = tensors.d_model
    own = names if tensors.has(f"{prefix}.{names[0]}.weight") else _QWEN[-len(names) :]
    gate, *ups, down = (f"{prefix}.{name}" for name in own)
    up = tensors.matrix(ups[0], d_ff, d_model) if ups else None
    return spec.GatedFfn(gate=tensors.matrix(gate, d_ff, d_model), up=up,
                         down=tensors.matrix(down, d_model, d_ff), unit=unit)  # fmt: skip
