"""MLX's affine codes of numbers, and the bytes of numbers in a dtype.

The core has the rule, that of MLX's own quantiser.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..errors import FormatError

Array = NDArray[Any]


class UnfitError(ValueError):
    """Numbers that cannot be written: what was expected, and what was found."""


class Codes(NamedTuple):
    """A bit stream (n, bits / 8 of the numbers), scales and biases (n / group) in float32."""

    stream: Array
    scales: Array
    biases: Array


def quantize(values: Array, bits: int, group: int) -> Codes:
    """Codes of float32 numbers whose count is whole groups.

    Raises:
        UnfitError: infinities, what is no number, or a group of a range that float32 has not.
    """
    try:
        return Codes(*_core.quantize(values, bits, group))
    except FormatError:
        require_finite(values)
        raise UnfitError("expected groups of a range that float32 has, found a wider one") from None


def require_finite(*numbers: Array) -> None:
    """Raises UnfitError for infinities, and for what is no number."""
    for each in numbers:
        wrong = each[~np.isfinite(each)]
        if wrong.size:
            raise UnfitError(f"expected finite numbers, found {wrong[0]}")


def encode(values: Array, dtype: str) -> Array:
    """The bytes of float32 numbers as F32, F16 or BF16, rounded to the nearest.

    Raises:
        UnfitError: a number is not finite, or too large for the dtype.
    """
    require_finite(values)
    if dtype == "F32":
        return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            found = values.astype("<f2")
        is_large = np.isinf(found)
    else:
        words = np.ascontiguousarray(values, "<f4").view("<u4")
        found = ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2")
        is_large = (found & 0x7FFF) == 0x7F80
    if is_large.any():
        raise UnfitError(f"expected numbers that {dtype} holds, found {values[is_large][0]}")
    return found.reshape(-1).view(np.uint8)
