"""Weights as compressed-tensors stores them: packed integers of 4 bits, floats of 8 bits.

"pack-quantized": a matrix X [out, columns] is `X.weight_packed`, I32 [out, columns / 8], whose
words hold code i in bits 4 i, `X.weight_scale` [out, columns / group], and `X.weight_shape`; value
= (code - zero) * scale. Symmetric ones have a zero of 8, others `X.weight_zero_point`, I32
[ceil(out / 8), columns / group], whose words hold that of row i in bits 4 i.

"float-quantized": `X.weight`, F8_E4M3, and `X.weight_scale`, a number a row [out, 1], a block of
128 x 128 or a matrix; value = weight * scale. Activations are not quantised here, as programs do
that multiply by floats of 8 bits; scales of theirs (`X.input_scale`) are left alone.

Source: the classes PackedQuantizationCompressor and FloatQuantizationCompressor of
compressed-tensors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arguments import is_integer, show
from ..formats import GROUPS, TABLE
from ..safetensors_header import Tensor
from .config import Config, OneWay
from .quantised import as_planes as renamed
from .quantised import one_each

METHOD = "compressed-tensors"
_PACKED, _SCALE, _SHAPE = ".weight_packed", ".weight_scale", ".weight_shape"
_ZERO = ".weight_zero_point"


class _Kind(NamedTuple):
    """Fields of a scheme of weights and of what it says of activations: what is done."""

    weights: OneWay
    activations: OneWay


_STATIC: OneWay = {"dynamic": (False, None)}
_EITHER: OneWay = {"dynamic": (True, False)}  # of activations, where a matrix has one scale
_KINDS = {
    "pack-quantized": _Kind(
        {
            "num_bits": (4,),
            "type": ("int",),
            "strategy": ("group",),
            "symmetric": (True, False),
            "actorder": (None, "static", "weight"),  # "group" stores columns in another order
        }
        | _STATIC,
        {},
    ),
    "float-quantized": _Kind(
        {
            "num_bits": (8,),
            "type": ("float",),
            "strategy": ("channel", "block", "tensor"),
            "symmetric": (True,),
        }
        | _STATIC,
        {"num_bits": (8,), "type": ("float",), "dynamic": (True,)},
    ),
}


def form(config: Config, method: Config) -> tuple[str, int]:
    """The format, and columns that a scale covers. `method`: the config's section.

    Raises:
        FormatError: the section asks for something else than these formats.
    """
    kind = method.values.get("format")
    _require(config, "format", kind, tuple(_KINDS))
    for key in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        _require(config, key, method.values.get(key), (None, {}))
    found = set()
    for name, scheme in method.section("config_groups").items():
        if not isinstance(scheme, dict) or not isinstance(scheme.get("weights"), dict):
            raise config.bad(f"expected a scheme of weights in {show(name)}, found {show(scheme)}")
        _require(config, "format", scheme.get("format"), (None, kind))
        _require(config, "output_activations", scheme.get("output_activations"), (None,))
        activations = _KINDS[str(kind)].activations
        if activations and scheme["weights"].get("strategy") == "tensor":
            activations = activations | _EITHER
        _require_activations(config, scheme.get("input_activations"), activations)
        for key, accepted in _KINDS[str(kind)].weights.items():
            _require(config, key, scheme["weights"].get(key), accepted)
        found.add(_form(config, scheme["weights"]))
    if len(found) != 1:
        raise config.bad(f"expected one scheme of weights in config_groups, found {len(found)}")
    return found.pop()


def _form(config: Config, weights: dict[str, Any]) -> tuple[str, int]:
    if whole := {"channel": "fp8_rows", "tensor": "fp8_tensor"}.get(weights["strategy"]):
        return whole, TABLE[whole].groups[0]
    if weights["strategy"] == "block":
        _require(config, "block_structure", weights.get("block_structure"), ([128, 128],))
        return "fp8", 128
    size = weights.get("group_size")
    if not is_integer(size) or size not in GROUPS:
        raise config.bad(f"expected group_size {', '.join(map(str, GROUPS))}, found {show(size)}")
    return "symmetric4" if weights["symmetric"] else "asymmetric4", int(size)


def _require_activations(config: Config, scheme: object, accepted: OneWay) -> None:
    if not accepted or not isinstance(scheme, dict):
        _require(config, "input_activations", scheme, (None,))
        return
    for key, values in accepted.items():
        _require(config, f"input_activations' {key}", scheme.get(key), values)


def _require(config: Config, key: str, value: object, accepted: tuple[object, ...]) -> None:
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool)
               for one in accepted):  # fmt: skip
        raise config.bad(f"expected {key} {' or '.join(map(repr, accepted))} in "
                         f"quantization_config, found {show(value)}")  # fmt: skip


def as_planes(config: Config, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with those of quantised matrices under the names and dtypes of their planes.

    Raises:
        FormatError: a matrix is there packed and under the name of a plane, too.
    """
    unpacked = renamed(config, table, _PACKED, {
        _PACKED: (".weight", {"I32": "U32"}),
        _SCALE: (".scales", {}),
        _ZERO: (".zeros", {"I32": "U32"}),
        _SHAPE: ("", {}),  # the config says the same
    })  # fmt: skip
    return one_each(renamed(config, unpacked, ".weight", {
        _SCALE: (".scales", {}),
        ".input_scale": ("", {}),
    }))  # fmt: skip
