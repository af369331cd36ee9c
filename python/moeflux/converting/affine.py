"""MLX's affine codes of numbers, and the bytes of numbers in a dtype.

The rule is that of MLX's own quantiser, which computes in float32: of a group of columns the edge
of the larger magnitude is held exactly, by a scale that can be negative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_LEAST_SCALE = np.float32(1e-7)


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
        UnfitError: infinities, or what is no number.
    """
    groups = values.reshape(-1, group)
    high, low = groups.max(axis=1), groups.min(axis=1)
    require_finite(high, low)
    top = np.float32((1 << bits) - 1)
    with np.errstate(over="ignore"):
        width = high - low
    require_finite(width)
    low_is_edge = np.abs(low) > np.abs(high)
    scales = np.maximum(width / top, _LEAST_SCALE)
    np.negative(scales, out=scales, where=~low_is_edge)
    edges = np.where(low_is_edge, low, high)
    with np.errstate(over="ignore"):
        edge_codes = np.rint(edges / scales)
    require_finite(edge_codes)
    on_grid = edge_codes != 0
    np.divide(edges, edge_codes, out=scales, where=on_grid)
    biases = np.where(on_grid, edges, np.float32(0))
    codes = groups - biases[:, None]
    codes /= scales[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, 0, top, out=codes)
    return Codes(pack(codes.astype(np.uint8).reshape(-1), bits), scales, biases)


def require_finite(*numbers: Array) -> None:
    """Raises UnfitError for infinities, and for what is no number."""
    for each in numbers:
        wrong = each[~np.isfinite(each)]
        if wrong.size:
            raise UnfitError(f"expected finite numbers, found {wrong[0]}")


def pack(codes: Array, bits: int) -> Array:
    """The bit stream, bytes, of codes (8 n) of so many bits: the first in the lowest bits."""
    words = codes.view("<u8")
    for width, keep, low in _steps(bits):
        words = (words & low) | ((words >> np.uint64(width - keep)) & (low << np.uint64(keep)))
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1)


def unpack(stream: Array, bits: int) -> Array:
    """The codes of a bit stream of whole bytes."""
    octets = np.zeros((stream.size // bits, 8), np.uint8)
    octets[:, :bits] = stream.reshape(-1, bits)
    words = octets.reshape(-1).view("<u8")
    for width, keep, low in reversed(_steps(bits)):
        words = (words & low) | ((words << np.uint64(width - keep)) & (low << np.uint64(width)))
    return words.view(np.uint8)


def _steps(bits: int) -> list[tuple[int, int, np.uint64]]:
    """How eight codes in eight bytes move together: pairs of 8, of 16 and of 32 bits.

    Each is the width of a half, the bits in use of it, and these bits of all lower halves.
    """
    steps = []
    for width in (8, 16, 32):
        keep = bits * width // 8
        low = sum(((1 << keep) - 1) << at for at in range(0, 64, 2 * width))
        steps.append((width, keep, np.uint64(low)))
    return steps


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
