"""Integers of 4 bits as compressed-tensors packs them ("pack-quantized"), symmetric, by groups.

A matrix X [out, columns] is `X.weight_packed`, I32 [out, columns / 8], whose words hold code i in
bits 4 i, `X.weight_scale` [out, columns / group], and `X.weight_shape`; value = (code - 8) * scale.
Source: the class PackedQuantizationCompressor of compressed-tensors.
"""

from __future__ import annotations

from dataclasses import replace

from ..arguments import is_integer, show
from ..formats import GROUPS
from ..safetensors_header import Tensor
from .config import Config, OneWay

METHOD = "compressed-tensors"
FORMAT = "symmetric4"
_PACKED, _SCALE, _SHAPE = ".weight_packed", ".weight_scale", ".weight_shape"
# Fields of a scheme of weights, and the values that mean what the format is.
_WEIGHTS: OneWay = {
    "num_bits": (4,),
    "type": ("int",),
    "strategy": ("group",),
    "symmetric": (True,),
    "dynamic": (False, None),
    "actorder": (None, "static", "weight"),  # "group" stores columns in another order
}


def group_size(config: Config, method: Config) -> int:
    """Columns that a scale covers. `method`: the config's section.

    Raises:
        FormatError: the section asks for something else than this format.
    """
    _require(config, "format", method.values.get("format"), ("pack-quantized",))
    for key in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        _require(config, key, method.values.get(key), (None, {}))
    found = set()
    for name, scheme in method.section("config_groups").items():
        if not isinstance(scheme, dict) or not isinstance(scheme.get("weights"), dict):
            raise config.bad(f"expected a scheme of weights in {show(name)}, found {show(scheme)}")
        for key in ("input_activations", "output_activations"):
            _require(config, key, scheme.get(key), (None,))
        _require(config, "format", scheme.get("format"), (None, "pack-quantized"))
        weights = scheme["weights"]
        for key, accepted in _WEIGHTS.items():
            _require(config, key, weights.get(key), accepted)
        size = weights.get("group_size")
        if not is_integer(size) or size not in GROUPS:
            raise config.bad(f"expected group_size {', '.join(map(str, GROUPS))}, found "
                             f"{show(size)}")  # fmt: skip
        found.add(size)
    if len(found) != 1:
        raise config.bad(f"expected one group_size in config_groups, found {len(found)}")
    return int(found.pop())


def _require(config: Config, key: str, value: object, accepted: tuple[object, ...]) -> None:
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool)
               for one in accepted):  # fmt: skip
        raise config.bad(f"expected {key} {' or '.join(map(repr, accepted))} in "
                         f"quantization_config, found {show(value)}")  # fmt: skip


def as_planes(config: Config, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with packed matrices under the names and dtypes of their planes.

    Raises:
        FormatError: a matrix is there packed and under the name of a plane, too.
    """
    planes: dict[str, Tensor] = {}
    for name, tensor in table.items():
        if name.endswith(_PACKED):
            own, dtype = name.removesuffix(_PACKED) + ".weight", {"I32": "U32"}.get(tensor.dtype)
            tensor = replace(tensor, name=own, dtype=dtype or tensor.dtype)
        elif name.endswith(_SCALE) and name.removesuffix(_SCALE) + _PACKED in table:
            tensor = replace(tensor, name=name.removesuffix(_SCALE) + ".scales")
        elif name.endswith(_SHAPE) and name.removesuffix(_SHAPE) + _PACKED in table:
            continue  # the config says the same
        if tensor.name in table and tensor.name != name:
            raise config.bad(f"expected {tensor.name} or {name}, found both")
        planes[tensor.name] = tensor
    return planes
