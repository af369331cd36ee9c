"""Numbers of rows of any format that the core knows, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import _core, formats
from ..spec import Shape
from .affine import Array, unpack

# E2M1: sign, two bits of exponent, one of mantissa.
_E2M1 = np.array([sign * value for sign in (1, -1) for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6)],
                 np.float32)  # fmt: skip
# E8M0: an exponent; 255 is no number.
_E8M0 = np.append(np.ldexp(np.float32(1), np.arange(255) - 127), np.float32(np.nan))
_MXFP4 = "mxfp4_planes"


def is_known(shape: Shape) -> bool:
    """Whether `rows` decodes the format."""
    name = shape.format
    return name in (*formats.BLOCKS, _MXFP4) or is_affine(shape) or is_plain(shape)


def is_plain(shape: Shape) -> bool:
    """Whether the weights are numbers."""
    return shape.format.upper() in formats.PLAIN


def is_affine(shape: Shape) -> bool:
    """Whether the weights are MLX's affine codes."""
    return shape.format in map(formats.affine, formats.BITS)


def row_bytes(shape: Shape) -> dict[str, int]:
    """Bytes of a row in each of the tensors that a matrix consists of."""
    sizes = {"U32": 4, "U8": 1, "F32": 4, "F16": 2, "BF16": 2}
    return {part: sizes[dtype] * count for part, (dtype, count) in shape.tensors.items()}


def numbers(stored: Array, dtype: str) -> Array:
    """Float32 of the bytes of F32, F16 or BF16."""
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.view("<f2" if dtype == "F16" else "<f4").astype(np.float32, copy=False)


def rows(shape: Shape, parts: Mapping[str, Array]) -> Array:
    """Rows (n, columns) as float32 numbers.

    Args:
        shape: of the matrix.
        parts: bytes (n, of a row) of each tensor that it consists of.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # for the caller to refuse
        return _rows(shape, parts).reshape(-1, shape.columns)


def _rows(shape: Shape, parts: Mapping[str, Array]) -> Array:
    weight = parts["weight"]
    if shape.format in formats.BLOCKS:
        found: Array = _core.decode(shape.format, shape.columns, weight.tobytes())
    elif is_plain(shape):
        found = numbers(weight.reshape(-1), shape.dtype)
    elif shape.format == _MXFP4:
        found = _E2M1[unpack(weight.reshape(-1), 4)].reshape(-1, shape.group)
        found *= _E8M0[parts["scales"].reshape(-1, 1)]
    else:
        bits = formats.TABLE[shape.format].bits
        scales, biases = (numbers(parts[name].reshape(-1), shape.dtype)
                          for name in ("scales", "biases"))  # fmt: skip
        found = unpack(weight.reshape(-1), bits).reshape(-1, shape.group).astype(np.float32)
        found *= scales[:, None]
        found += biases[:, None]
    return found
