"""Codes, scales and biases are those of MLX's own quantiser; numbers of every format are right."""

import json
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux import _core, formats
from moeflux.converting import affine, decode
from moeflux.spec import Shape
from oracle import affine as expected
from oracle import quantizer_cases as quantizer
from oracle import safetensors_file

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mlx_quantize.json").read_text())[
    "digests"
]
RNG = np.random.default_rng(3)


def test_the_golden_has_all_bits_and_groups_that_the_core_has():
    assert set(GOLDEN) == {quantizer.name(*case) for case in quantizer.cases()}
    assert set(expected.BITS) == set(formats.BITS)
    assert set(expected.GROUP_SIZES) == set(formats.GROUPS)


@pytest.mark.parametrize(("dtype", "bits", "group"), list(quantizer.cases()))
def test_codes_scales_and_biases_are_those_of_mlx(dtype, bits, group):
    numbers = quantizer.numbers(dtype)
    found = affine.quantize(numbers, bits, group)
    words, scales, biases = expected.quantize(numbers, bits, group)
    assert found.stream.tobytes() == words.tobytes()
    np.testing.assert_array_equal(found.scales, scales.reshape(-1))
    np.testing.assert_array_equal(found.biases, biases.reshape(-1))
    parts = (found.stream, affine.encode(found.scales, dtype), affine.encode(found.biases, dtype))
    digest = quantizer.digest(part.tobytes() for part in parts)
    assert digest == GOLDEN[quantizer.name(dtype, bits, group)]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("alone", [True, False])
def test_what_is_no_finite_number_has_no_codes(wrong, alone):
    numbers = np.zeros(128, np.float32) if alone else RNG.standard_normal(128).astype("f4")
    numbers[77] = wrong
    with pytest.raises(affine.UnfitError, match=f"finite numbers, found .?{abs(wrong)}"):
        affine.quantize(numbers, 4, 64)
    for dtype in ("F32", "F16", "BF16"):
        with pytest.raises(affine.UnfitError, match="finite numbers"):
            affine.encode(numbers, dtype)


def test_a_group_wider_than_float32_reaches_is_refused():
    numbers = np.zeros(64, np.float32)
    numbers[:2] = 3e38, -3e38
    for wide in (numbers, np.full(64, 3e38, np.float32)):
        with pytest.raises(affine.UnfitError, match="range that float32 has"):
            affine.quantize(wide, 4, 64)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_numbers_in_a_dtype_are_the_nearest(dtype):
    numbers = (RNG.standard_normal(5000) * 10 ** RNG.uniform(-6, 4, 5000)).astype(np.float32)
    stored = safetensors_file.encode(numbers, dtype)
    found = affine.encode(numbers, dtype)
    assert found.tobytes() == stored.data.tobytes()
    np.testing.assert_array_equal(decode.numbers(found, dtype), safetensors_file.decode(stored))


@pytest.mark.parametrize(("dtype", "large"), [("F16", 65520), ("BF16", 3.4e38)])
def test_numbers_beyond_a_dtype_are_refused(dtype, large):
    with pytest.raises(affine.UnfitError, match=f"numbers that {dtype} holds, found"):
        affine.encode(np.array([1, large], np.float32), dtype)
    assert affine.encode(np.array([1, 65504], np.float32), dtype).size == 4


@pytest.mark.parametrize("bits", formats.BITS)
def test_affine_codes_are_numbers_again(bits):
    numbers = RNG.standard_normal((6, 256)).astype(np.float32)
    words, scales, biases = expected.quantize(numbers, bits, 64)
    shape = Shape(6, 256, formats.affine(bits), 64, "F32")
    stored = zip(shape.tensors, (words, scales, biases), strict=True)
    parts = {name: part.view(np.uint8).reshape(6, -1) for name, part in stored}
    assert {name: part.shape[1] for name, part in parts.items()} == decode.row_bytes(shape)
    found = decode.rows(shape, parts)
    exact = expected.dequantize(words, scales, biases, bits)
    assert found.dtype == np.float32 and np.abs(found - exact).max() <= 1e-6


def test_every_exponent_and_code_of_mxfp4_is_the_number_that_it_says():
    exponents = np.arange(255, dtype=np.uint8)[:, None]
    codes = np.tile(np.arange(16, dtype=np.uint8), 2)
    weight = np.tile(codes[::2] | codes[1::2] << 4, (255, 1))
    shape = Shape(255, 32, "mxfp4_planes", 32, "F32")
    found = decode.rows(shape, {"weight": weight, "scales": exponents})
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7]
    values = np.where(codes & 8, -magnitudes, magnitudes) * np.exp2(np.arange(255.0) - 127)[:, None]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, values.astype(np.float32))
    exponents = np.full((2, 1), 255, np.uint8)
    with pytest.raises(affine.UnfitError, match="finite scales"):
        decode.rows(shape, {"weight": weight[:2], "scales": exponents})


@pytest.mark.parametrize(
    ("count", "bits", "group"), [(64, 7, 64), (64, 4, 48), (96, 4, 64), (64, 0, 64), (64, 16, 64)]
)
def test_the_core_refuses_what_is_no_quantisation(count, bits, group):
    with pytest.raises(moeflux.FormatError):
        _core.quantize(np.zeros(count, np.float32), bits, group)


def test_planes_that_are_no_rows_of_their_format_are_refused():
    def decoded(format="affine4", columns=64, group=64, dtype="F32", sizes=(32, 4, 4)):
        planes = [np.zeros(size, np.uint8) for size in sizes]
        return _core.decode_planes(format, columns, group, dtype, planes)

    assert decoded().tolist() == [[0] * 64]
    for given, words in (
        ({"format": "q4_0", "group": 32, "dtype": "F16"}, "planes of q4_0"),
        ({"format": "q9_9"}, "found q9_9"),
        ({"columns": 48}, "groups of 64, found 48"),
        ({"group": 48}, "48"),
        ({"dtype": "U8"}, "U8"),
        ({"sizes": (32, 4)}, "3 planes of affine4, found 2"),
        ({"sizes": (31, 4, 4)}, "rows of 32 bytes, found 31"),
        ({"sizes": (0, 0, 0)}, "rows of 32 bytes, found 0"),
        ({"sizes": (64, 8, 4)}, "expected 8 bytes, found 4"),
    ):
        with pytest.raises(moeflux.FormatError, match=words):
            decoded(**given)
