"""Numbers that MLX's own quantiser was given; its answers are in tests/golden/mlx_quantize.json.

Random rows, and rows of what is special about a group: constants, zeros, one sign, two values,
codes in the middle between two, a large offset, numbers near the least scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from . import affine, values

Array = np.ndarray
COLUMNS = 512
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def numbers(dtype: str) -> Array:
    """Rows (n, COLUMNS) of float32 that the dtype holds."""
    rows = values.normal(1, "quantizer", (24, COLUMNS))
    rows[0], rows[1], rows[2] = 0, 1.5, -2.25
    rows[3], rows[4] = np.abs(rows[3]), -np.abs(rows[4])
    rows[5] *= 1e-9
    rows[6] *= 1e3
    rows[7] = 1e-8
    rows[8] = 0
    rows[8, 3::64] = 5
    rows[9] = np.where(rows[9] < 0, -1, 1)
    rows[10] = np.rint(2 * rows[10]) / 2
    rows[11], rows[12] = rows[11] + 100, rows[12] - 100
    rows[13] = np.arange(COLUMNS) % 32 - 7.5
    rows[14] = -0.0
    rows[15] *= 1e-5
    if dtype == "F16":
        return rows.astype(np.float16).astype(np.float32)
    found = rows.astype(np.float32)
    if dtype == "F32":
        return found
    bits = found.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def cases() -> Iterator[tuple[str, int, int]]:
    """Dtype, bits and group of all."""
    for dtype in DTYPES:
        for bits in affine.BITS:
            for group in affine.GROUP_SIZES:
                yield dtype, bits, group


def name(dtype: str, bits: int, group: int) -> str:
    """Of a case in the golden."""
    return f"{dtype}-{bits}-{group}"


def digest(parts: Iterable[bytes]) -> str:
    """Of the bytes of codes, scales and biases."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]
