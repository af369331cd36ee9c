"""MLX's affine quantisation, in numpy.

A row is a little-endian bit stream: code i occupies bits [i*bits, (i+1)*bits), stored as uint32
words. Value = scale * code + bias per group of `group_size` codes along the last axis.
The rounding recipe is that of `mx.quantize(mode="affine")` for float32 input.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


def pack_codes(codes: Array, bits: int) -> Array:
    """Codes [..., n] below 2^bits -> uint32 words [..., n*bits/32]."""
    octets = codes.astype(np.uint8)[..., None]
    stream = np.unpackbits(octets, axis=-1, bitorder="little")[..., :bits]
    stream = stream.reshape(*codes.shape[:-1], -1)
    packed = np.packbits(stream, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4")


def unpack_codes(packed: Array, bits: int) -> Array:
    """uint32 words [..., w] -> codes [..., w*32/bits] as uint32."""
    octets = np.ascontiguousarray(packed, "<u4").view(np.uint8)
    stream = np.unpackbits(octets, axis=-1, bitorder="little")
    stream = stream.reshape(*packed.shape[:-1], -1, bits)
    return np.packbits(stream, axis=-1, bitorder="little")[..., 0].astype(np.uint32)


def quantize(values: Array, bits: int, group_size: int) -> tuple[Array, Array, Array]:
    """float32 [..., n] -> words, scales, biases (float32 [..., n/group_size]).

    The codes are those of the float32 scale; a caller that stores scales as bf16 rounds afterwards.
    Scales can be negative: the edge of larger magnitude is represented exactly.
    """
    groups = np.asarray(values, np.float32).reshape(*values.shape[:-1], -1, group_size)
    high, low = groups.max(axis=-1, keepdims=True), groups.min(axis=-1, keepdims=True)
    top_code = np.float32((1 << bits) - 1)
    scale = np.maximum((high - low) / top_code, np.float32(1e-7))
    low_is_edge = np.abs(low) > np.abs(high)
    scale = np.where(low_is_edge, scale, -scale)
    edge = np.where(low_is_edge, low, high)
    edge_code = np.rint(edge / scale)
    on_grid = edge_code != 0
    scale = np.where(on_grid, edge / np.where(on_grid, edge_code, 1), scale).astype(np.float32)
    bias = np.where(on_grid, edge, 0).astype(np.float32)
    codes = np.clip(np.rint((groups - bias) / scale), 0, top_code).astype(np.uint8)
    return pack_codes(codes.reshape(values.shape), bits), scale[..., 0], bias[..., 0]


def dequantize(packed: Array, scales: Array, biases: Array, bits: int) -> Array:
    """Exact float64 values [..., n]; the group size follows from the shapes."""
    codes = unpack_codes(packed, bits)
    groups = codes.reshape(*scales.shape, -1).astype(np.float64)
    values = groups * scales[..., None].astype(np.float64) + biases[..., None].astype(np.float64)
    return values.reshape(codes.shape)
