"""Formats of blocks mean the numbers that their own package says, bit for bit."""

import numpy as np
import pytest

import moeflux
from moeflux import _core, formats

gguf = pytest.importorskip("gguf")

BLOCKS = [name for name, row in formats.TABLE.items() if row.is_blocks]
# f16: none, the least, the least normal one, one, a third, the largest; of either sign.
EXTREMES = np.array([0, 1, 0x0400, 0x3C00, 0x3555, 0x7BFF], "<u2")


def blocks_of(kind, seed, n):
    """Random blocks with the extremes as scales and minima in turns."""
    rng = np.random.default_rng(seed)
    columns, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (n, nbytes), np.uint8)
    numbers = np.concatenate([EXTREMES, EXTREMES | 0x8000])
    has_minimum = kind.name.endswith("_1")
    for at in (0, 2)[: 1 + has_minimum]:
        blocks[:, at : at + 2] = rng.choice(numbers, n)[:, None].view(np.uint8).reshape(n, 2)
    return columns, blocks


def test_the_formats_that_are_compared_are_all_of_blocks():
    assert BLOCKS == ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_code_under_every_scale_is_what_the_gguf_package_says(name):
    kind = gguf.GGMLQuantizationType[name.upper()]
    columns, blocks = blocks_of(kind, 5, 6000)
    rows = blocks.reshape(1000, 6 * blocks.shape[1])
    expected = gguf.dequantize(rows, kind)
    found = _core.decode(name, 6 * columns, rows.tobytes())
    np.testing.assert_array_equal(found, expected)
    scaled = np.isin(blocks[:, 1] & 0x7F, [0x3C]) & (blocks[:, 0] == 0)
    codes = np.unique(found.reshape(-1, columns)[scaled])
    assert len(codes) >= 1 << formats.TABLE[name].bits


def test_blocks_that_are_no_rows_of_their_format_are_refused():
    for name, columns, nbytes, words in (
        ("q4_0", 32, 17, "rows of 18 bytes, found 17"),
        ("q4_0", 32, 0, "rows of 18 bytes, found 0"),
        ("q4_0", 48, 27, "whole groups of 32, found 48"),
        ("q4_0", 0, 18, "rows and columns"),
        ("affine4", 64, 32, "blocks, found affine4"),
        ("q9_9", 32, 18, "found q9_9"),
    ):
        with pytest.raises(moeflux.FormatError, match=words):
            _core.decode(name, columns, bytes(nbytes))
