"""Numbers of rows of any format that the core knows, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import _core, formats
from ..errors import FormatError
from ..safetensors_header import DTYPE_BYTES
from ..spec import Shape
from .affine import Array, UnfitError


def is_plain(shape: Shape) -> bool:
    """Whether the weights are numbers."""
    return shape.format.upper() in formats.PLAIN


def is_affine(shape: Shape) -> bool:
    """Whether the weights are MLX's affine codes."""
    return shape.format in map(formats.affine, formats.BITS)


def row_bytes(shape: Shape) -> dict[str, int]:
    """Bytes of a row in each of the tensors that a matrix consists of."""
    return {part: DTYPE_BYTES[of.dtype] * of.per_row for part, of in shape.tensors.items()}


def numbers(stored: Array, dtype: str) -> Array:
    """Float32 of the bytes of F32, F16 or BF16."""
    if dtype == "BF16":
        return (stored.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.view("<f2" if dtype == "F16" else "<f4").astype(np.float32, copy=False)


def rows(shape: Shape, parts: Mapping[str, Array]) -> Array:
    """Rows (n, columns) as float32 numbers.

    Args:
        shape: of the matrix.
        parts: bytes (n, of a row) of each tensor that it consists of; what is for several rows
            once for each.

    Raises:
        UnfitError: scales or biases that are not finite.
    """
    if is_plain(shape):
        return numbers(parts["weight"].reshape(-1), shape.dtype).reshape(-1, shape.columns)
    try:
        if shape.format in formats.BLOCKS:
            found: Array = _core.decode(shape.format, shape.columns, parts["weight"].tobytes())
            return found
        stored = [parts[name].reshape(-1) for name in shape.tensors]
        found = _core.decode_planes(shape.format, shape.columns, shape.group, shape.dtype, stored)
    except FormatError:
        raise UnfitError("expected finite scales and biases, found others") from None
    return found
