"""Formats of blocks mean the numbers that their own package says, bit for bit."""

import numpy as np
import pytest

import moeflux
from moeflux import _core, formats

gguf = pytest.importorskip("gguf")

BLOCKS = [name for name, row in formats.TABLE.items() if row.is_blocks]
# f16: none, the least, the least normal one, one, a third, the largest; of either sign.
EXTREMES = np.array([0, 1, 0x0400, 0x3C00, 0x3555, 0x7BFF], "<u2")
# Where blocks have f16 numbers, in bytes.
NUMBERS = {
    **dict.fromkeys(("q8_0", "q4_0", "q5_0"), (0,)),
    **dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)),
    "q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,),
    "iq4_nl": (0,), "iq4_xs": (0,), "mxfp4": (), "nvfp4": (),
}  # fmt: skip
# Different numbers of a scale, where that is not two to the bits: zero has two codes.
CODES = {"mxfp4": 15, "nvfp4": 15}
# A scale that is one, of formats without f16 numbers, and one that is none.
ONE, NONE = {"mxfp4": 127, "nvfp4": 0x38}, {"mxfp4": 0xFF, "nvfp4": 0x7F}


def blocks_of(name, seed, n):
    """Random blocks with the extremes as f16 numbers, in turns.

    Of every eighth the bytes are all 0 or all 255 beside them: the extremes of codes and of scales
    of few bits.
    """
    rng = np.random.default_rng(seed)
    columns, nbytes = gguf.GGML_QUANT_SIZES[kind_of(name)]
    blocks = rng.integers(0, 256, (n, nbytes), np.uint8)
    blocks[::16], blocks[8::16] = 0, 255
    numbers = np.concatenate([EXTREMES, EXTREMES | 0x8000])
    for at in NUMBERS[name]:
        blocks[:, at : at + 2] = rng.choice(numbers, n)[:, None].view(np.uint8).reshape(n, 2)
    if name == "mxfp4":  # exponents whose numbers are all finite
        blocks[:, 0] = np.arange(n) % 253
    if name == "nvfp4":  # every scale but the one that is none; a sign is ignored
        blocks[:, :4] = np.arange(n)[:, None] % 127
        blocks[1::2, :4] |= 128
    return columns, blocks


def kind_of(name):
    return gguf.GGMLQuantizationType[name.upper()]


def test_the_formats_that_are_compared_are_all_of_blocks():
    assert sorted(BLOCKS) == sorted(NUMBERS)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_code_under_every_scale_is_what_the_gguf_package_says(name):
    columns, blocks = blocks_of(name, 5, 6000)
    rows = blocks.reshape(1000, 6 * blocks.shape[1])
    expected = gguf.dequantize(rows, kind_of(name))
    found = _core.decode(name, 6 * columns, rows.tobytes())
    np.testing.assert_array_equal(found, expected)
    one = blocks[:, 0] == ONE[name] if name in ONE else (f16_of(blocks, name) & 0x7FFF) == 0x3C00
    codes = np.unique(found.reshape(-1, columns)[one])
    assert len(codes) >= CODES.get(name, 1 << formats.TABLE[name].bits)


def f16_of(blocks, name):
    first = NUMBERS[name][0]
    return blocks[:, first : first + 2].copy().view("<u2")[:, 0]


def test_planes_of_mxfp4_are_the_tensors_of_other_checkpoints():
    assert formats.tensors("mxfp4_planes", 96, 32, "F32") == {
        "weight": ("U32", 12, 1), "scales": ("U8", 3, 1)}  # fmt: skip
    assert formats.tensors("mxfp4", 96, 32, "F32") == {"weight": ("U8", 51, 1)}


def test_scales_of_blocks_of_rows_are_rounded_up():
    found = formats.tensors("fp8", 200, 128, "BF16")
    assert found == {"weight": ("F8_E4M3", 200, 1), "scales": ("BF16", 2, 128)}
    assert found["scales"].shape(129) == (2, 2)


def test_blocks_that_are_no_rows_of_their_format_are_refused():
    for name, columns, nbytes, words in (
        ("q4_0", 32, 17, "rows of 18 bytes, found 17"),
        ("q4_0", 32, 0, "rows of 18 bytes, found 0"),
        ("q4_0", 48, 27, "whole groups of 32, found 48"),
        ("q4_k", 384, 216, "whole groups of 256, found 384"),
        ("q4_0", 0, 18, "rows and columns"),
        ("affine4", 64, 32, "blocks, found affine4"),
        ("q9_9", 32, 18, "found q9_9"),
    ):
        with pytest.raises(moeflux.FormatError, match=words):
            _core.decode(name, columns, bytes(nbytes))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("bits", [0x7C00, 0x7E00, 0xFFFF])
def test_a_scale_that_is_no_finite_number_is_refused(name, bits):
    columns, blocks = blocks_of(name, 7, 3)
    _core.decode(name, columns, blocks.tobytes())
    for at in NUMBERS[name] or (0,):
        bad = blocks.copy()
        bad[1, at : at + 2] = np.array([NONE.get(name, bits)], "<u2").view(np.uint8)
        with pytest.raises(moeflux.FormatError, match="finite"):
            _core.decode(name, columns, bad.tobytes())


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_fill_their_planes_and_nothing_else(name):
    _, blocks = blocks_of(name, 6, 3)
    room = np.full(blocks.nbytes + 64, 77, np.uint8)
    for n in (1, 2, 3):
        room[:] = 77
        _core.transcode(name, blocks[:n].tobytes(), room[: n * blocks.shape[1]])
        assert (room[n * blocks.shape[1] :] == 77).all()
    planes, alone = room[: blocks.nbytes].copy(), np.empty(blocks.shape[1], np.uint8)
    _core.transcode(name, blocks[2].tobytes(), alone)
    codes = code_bytes(name)
    assert np.array_equal(planes[2 * codes : 3 * codes], alone[:codes])


def code_bytes(name):
    """Of a block's codes."""
    return formats.TABLE[name].bits * gguf.GGML_QUANT_SIZES[kind_of(name)][0] // 8


def test_planes_without_room_are_refused():
    for name, nbytes, room, words in (
        ("q4_0", 18, 17, "room for 18 bytes, found 17"),
        ("q4_0", 17, 18, "whole blocks, found 17"),
        ("q4_0", 0, 0, "rows and columns"),
        ("affine4", 64, 64, "whole blocks, found 64 bytes of affine4"),
    ):
        with pytest.raises(moeflux.FormatError, match=words):
            _core.transcode(name, bytes(nbytes), np.empty(room, np.uint8))
