"""Which tensors a conversion writes, by the names of MLX, and the rows that each is made of.

Made from the spec of the source, so that every family and layout has one way: what loads converts.
What no spec names is left out: parts for images, layers that predict more than the next token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from .. import formats, spec
from ..checkpoint import Checkpoint, fail
from ..safetensors_header import Tensor
from . import decode
from .config import is_text_only
from .joined import Joined, of_delta_net
from .rows import Rows, of_experts, of_matrix, of_tensor, of_vector
from .settings import DTYPES, Codes, Settings

# What names of a text part begin with in the hub's files, without any other part, and in MLX's.
_HUB, _ALONE, _MLX = "model.language_model.", "model.", "language_model.model."
_HEAD = "lm_head."
# Families of which MLX has the projections of a delta net in two matrices, and what these hold.
_WHOLE, _PARTS = ("qwen3_next",), {"qkvz": ("qkv", "z"), "ba": ("b", "a")}


class Item(NamedTuple):
    """What is written.

    Attributes:
        name: of a matrix without `.weight`, of a vector as it is.
        rows: where the numbers come from.
        shape: of what is written, without the columns of a matrix.
        dtype: of numbers, scales and biases.
        codes: None for plain numbers.
        as_is: the codes are those of the source, whose scales cover as many columns or more.
        is_matrix: it is named by `.weight`, and has columns.
        is_ungrouped: it has no codes since its columns are no whole groups.
    """

    name: str
    rows: Rows | Joined
    shape: tuple[int, ...]
    dtype: str
    codes: Codes | None = None
    as_is: bool = False
    is_matrix: bool = True
    is_ungrouped: bool = False


class Plan:
    """The items of a conversion, in order."""

    def __init__(self, checkpoint: Checkpoint, model: spec.Spec, settings: Settings) -> None:
        """Raises FormatError: a rule does not fit the model, or a format is not read."""
        self._checkpoint, self._settings = checkpoint, settings
        embedding, self._kind = model.embed.weight.name, checkpoint.config.get("model_type")
        own = (_HUB, _ALONE) if is_text_only(checkpoint.config) else (_HUB,)
        self._prefix = next((prefix for prefix in own if embedding.startswith(prefix)), "")
        self.dtype = DTYPES[settings.dtype] if settings.dtype else _dtype(model.embed)
        found: dict[str, Item] = {}
        for item in self._items(model):
            found.setdefault(item.name, item)  # rows of one matrix can be parts of two
        self.items = list(found.values())
        settings.require_use(item.name for item in self.items if item.is_matrix)

    @property
    def quantization(self) -> dict[str, Any]:
        """The field of config.json."""
        usual = self._settings.usual
        found: dict[str, Any] = {"group_size": usual.group, "bits": usual.bits, "mode": "affine"}
        for item in self.items:
            if item.codes and item.codes != usual:
                found[item.name] = {"group_size": item.codes.group, "bits": item.codes.bits}
        return found

    def _items(self, node: Any, name: str = "") -> Iterator[Item]:
        """Of a part of a spec that is in a field of this name."""
        if isinstance(node, spec.Matrix):
            yield from self._matrix(node, is_small=name in ("router", "shared_gate"))
        elif isinstance(node, spec.Vector):
            yield self._vector(node, is_conv=name == "conv")
        elif isinstance(node, spec.DeltaNet):
            yield from self._delta_net(node)
        elif isinstance(node, spec.Moe):
            yield from self._experts(node)
            for each in fields(node):
                if each.name not in ("experts", "gate_bias", "up_bias", "down_bias"):
                    yield from self._items(getattr(node, each.name), each.name)
        elif isinstance(node, spec.GatedFfn):
            for leaf, matrix in node.matrices.items():
                yield from self._matrix(matrix, False, leaf)
        elif isinstance(node, list):
            for each in node:
                yield from self._items(each, name)
        elif is_dataclass(node):
            for each in fields(node):
                yield from self._items(getattr(node, each.name), each.name)

    def _matrix(self, matrix: spec.Matrix, is_small: bool, leaf: str = "") -> Iterator[Item]:
        """Of a matrix; `leaf` is the last part of its name in MLX's files, where it has another."""
        name = self._named(matrix.weight.name.removesuffix(".weight"))
        name = f"{name.rpartition('.')[0]}.{leaf}" if leaf else name
        rows = of_matrix(matrix)
        usual = self._own(rows) if is_small else self._settings.usual
        yield self._coded(name, rows, (rows.n_rows,), usual)
        if matrix.bias is not None:
            yield self._plain(matrix.bias.name, of_tensor(matrix.bias), matrix.bias)

    def _delta_net(self, net: spec.DeltaNet) -> Iterator[Item]:
        joined = of_delta_net(net) if self._kind in _WHOLE else {}
        for name, rows in joined.items():
            yield self._coded(self._named(name), rows, (rows.n_rows,), self._settings.usual)
        apart = [part for whole in joined for part in _PARTS[whole.rpartition("_")[2]]]
        for each in fields(net):
            if each.name not in apart:
                yield from self._items(getattr(net, each.name), each.name)

    def _vector(self, vector: spec.Vector, is_conv: bool) -> Item:
        if vector.stacks is not None:
            raise fail("convert", f"expected plain numbers or FP8 in {vector.tensor.name}, found "
                       "quantised keys and values of latents, or stacks of them",
                       self._checkpoint.path)  # fmt: skip
        shape = None
        if is_conv:  # in MLX's files, of which this is the sign
            channels = vector.tensor.shape[0]
            shape = (channels, vector.count // channels, 1)
        return self._plain(vector.tensor.name, of_vector(vector), vector.tensor, shape)

    def _plain(
        self, name: str, rows: Rows, tensor: Tensor, shape: tuple[int, ...] | None = None
    ) -> Item:
        dtype = rows.shape.dtype if decode.is_plain(rows.shape) else "F32"
        return Item(self._named(name), rows, shape or tensor.shape, dtype,
                    is_matrix=False)  # fmt: skip

    def _experts(self, moe: spec.Moe) -> Iterator[Item]:
        experts = moe.experts
        given = [(experts.gate, moe.gate_bias), (experts.up, moe.up_bias),
                 (experts.down, moe.down_bias)]  # fmt: skip
        if len(experts.stacked) < len(given):
            del given[1]
        module = experts.gate.module.rpartition(".")[0].rpartition(".")[0]
        module = self._named(f"{module}.{experts.stack}")
        for number, name in enumerate(experts.stacked):
            unit, of_unit, at = 1, 0, number
            if experts.interleaved and number < 2:
                unit, of_unit, at = 2, number, 0
            matrix, bias = given[at]
            if matrix is None:
                continue
            rows = of_experts(matrix, unit, of_unit)
            shape = (rows.n_matrices, rows.n_rows)
            yield self._coded(f"{module}.{name}", rows, shape, self._settings.of_experts)
            if bias is not None:
                vector = of_vector(bias, unit, of_unit)
                yield Item(f"{module}.{name}.bias", vector, shape, vector.shape.dtype,
                           is_matrix=False)  # fmt: skip

    def _coded(
        self, name: str, rows: Rows | Joined, shape: tuple[int, ...], usual: Codes | None
    ) -> Item:
        rule, columns = self._settings.rule(name), rows.shape.columns
        codes, is_ungrouped = rule.codes if rule else usual, False
        if codes and columns % codes.group:
            if rule:
                raise fail("convert", f"--rule {rule.text}: expected columns in whole groups of "
                           f"{codes.group}, found {columns} of {name}",
                           self._checkpoint.path)  # fmt: skip
            codes, is_ungrouped = None, True
        own = self._own(rows)
        if codes and own and own.bits == codes.bits and own.group % codes.group == 0:
            dtype = rows.shape.dtype
            changes = self._settings.dtype is not None or dtype == "F32"
            return Item(name, rows, shape, self.dtype if changes else dtype, codes, True)
        stays = (codes is None and self._settings.dtype is None and isinstance(rows, Rows)
                 and decode.is_plain(rows.shape))  # fmt: skip
        dtype = rows.shape.dtype if stays else self.dtype
        return Item(name, rows, shape, dtype, codes, is_ungrouped=is_ungrouped)

    def _own(self, rows: Rows | Joined) -> Codes | None:
        """The codes that a matrix has in the source."""
        if not decode.is_affine(rows.shape):
            return None
        return Codes(formats.TABLE[rows.shape.format].bits, rows.shape.group)

    def _named(self, name: str) -> str:
        if self._prefix:
            if name.startswith(self._prefix):
                return _MLX + name.removeprefix(self._prefix)
            if f"{name}.".startswith(_HEAD):
                return f"language_model.{name}"
        return name


def _dtype(embed: spec.Matrix) -> str:
    """That of the source's numbers; BF16 where there are none but scales of other formats."""
    return embed.dtype if decode.is_plain(embed) or decode.is_affine(embed) else "BF16"
