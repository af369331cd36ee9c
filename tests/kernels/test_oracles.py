"""The shipped oracles against those of the checkpoint tests, which follow MLX."""

import numpy as np
import pytest

from moeflux.doctor.kernels import oracles
from oracle import affine


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 96, 128])
def test_affine_weights_decode_as_mlx_stores_them(bits, group):
    rng = np.random.default_rng(bits * group)
    codes = rng.integers(0, 1 << bits, (3, 5 * group), dtype=np.uint8)
    scales, biases = rng.standard_normal((2, 3, 5))
    words = affine.pack_codes(codes, bits)
    expected = affine.dequantize(words, scales, biases, bits)
    np.testing.assert_array_equal(oracles.dequantize(words, scales, biases, bits), expected)
    np.testing.assert_allclose(expected[1, group], codes[1, group] * scales[1, 1] + biases[1, 1])
