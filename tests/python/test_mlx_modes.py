"""MLX's modes of quantisation beside affine codes: the same numbers as float32.

The numbers are those of OCP's specification of microscaling formats, taken here in float64; where
mlx is installed, its own decoder must agree.
"""

import json
import re

import numpy as np
import pytest

import moeflux
from moeflux import _core, formats
from oracle import build
from oracle.safetensors_file import Stored, encode, read
from oracle.writer import write_checkpoint
from support.float8 import e4m3
from support.float32_twin import ROOM, SameNumbers, logits, prompt

MODES = {"mxfp4": {"group_size": 32, "bits": 4}, "mxfp8": {"group_size": 32, "bits": 8},
         "nvfp4": {"group_size": 16, "bits": 4}}  # fmt: skip
MADE = {"qwen3_moe": ("mxfp4", "nvfp4"), "qwen3_next": ("mxfp8",)}
SCALES = {"mxfp4": (118, 123), "mxfp8": (115, 118), "nvfp4": (0, 24)}  # of weights of about 0.1
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def numbers(mode, words, scales):
    """float64 [..., columns] of words [..., columns * bits / 32] and a scale a group."""
    bits, group = MODES[mode]["bits"], MODES[mode]["group_size"]
    codes = words[..., None] >> (bits * np.arange(32 // bits, dtype=np.uint32)) & ((1 << bits) - 1)
    codes = codes.reshape(*scales.shape, group)
    elements = e4m3(codes)
    if bits == 4:
        elements = MAGNITUDES[codes & 7] * np.where(codes & 8, -1.0, 1.0)
    factors = e4m3(scales) if mode == "nvfp4" else np.exp2(scales.astype(np.float64) - 127)
    return (elements * factors[..., None]).reshape(*scales.shape[:-1], -1)


def random_of(mode, random, shape, scales):
    """Words of that shape, of finite numbers."""
    words = random.integers(0, 1 << 32, shape, np.uint32)
    if mode == "mxfp8":  # no byte is 0x7f or 0xff
        words &= np.uint32(0xF7F7F7F7)
    groups = shape[-1] * 32 // MODES[mode]["bits"] // MODES[mode]["group_size"]
    return words, random.integers(*scales, (*shape[:-1], groups)).astype(np.uint8)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_are_those_of_mlx(mode):
    mx = pytest.importorskip("mlx.core")
    words, _ = random_of(mode, np.random.Generator(np.random.PCG64(1)), (240, 8), (0, 1))
    # Exponents of products that float32 holds; all numbers of nvfp4's scales.
    every = np.arange(240) % 127 if mode == "nvfp4" else np.arange(2, 242)
    groups = 256 // MODES[mode]["bits"] // MODES[mode]["group_size"]
    scales = np.repeat(every.astype(np.uint8)[:, None], groups, 1)
    theirs = mx.dequantize(mx.array(words), mx.array(scales), **MODES[mode], mode=mode,
                           dtype=mx.float32)  # fmt: skip
    assert np.array_equal(numbers(mode, words, scales), np.array(theirs))


@pytest.mark.parametrize("mode", MODES)
def test_every_code_and_scale_is_decoded_to_its_number(mode):
    words, _ = random_of(mode, np.random.Generator(np.random.PCG64(2)), (254, 32), (0, 1))
    codes = np.arange(128, dtype=np.uint8)  # a row has all codes
    codes[codes == 127] = 0
    words[:] = (codes if mode == "mxfp8" else codes | (codes & 15) << 4).view("<u4")
    every = np.arange(254) % 127 if mode == "nvfp4" else np.arange(254)
    columns = 1024 // MODES[mode]["bits"]
    scales = np.repeat(every.astype(np.uint8)[:, None], columns // MODES[mode]["group_size"], 1)
    found = _core.decode_planes(
        formats.MODES[mode].format, columns, MODES[mode]["group_size"], "F32",
        [np.ascontiguousarray(part).view(np.uint8).reshape(-1) for part in (words, scales)],
    )  # fmt: skip
    with np.errstate(over="ignore"):
        assert np.array_equal(found, numbers(mode, words, scales).astype(np.float32))


@pytest.fixture(scope="module",
                params=[(family, mode) for family, modes in MADE.items() for mode in modes],
                ids=lambda param: "-".join(param))  # fmt: skip
def made(request, tmp_path_factory):
    """The mode, a config, a checkpoint's tensors and the same numbers as float32.

    Routers keep affine codes by an override, as mlx-lm leaves them.
    """
    family, mode = request.param
    source = build(tmp_path_factory.mktemp("source"), family, "mlx-q4", 6)
    config = json.loads((source / "config.json").read_text())
    stored = {name: tensor for file in sorted(source.glob("*.safetensors"))
              for name, tensor in read(file).items()}  # fmt: skip
    overrides = {name: entry for name, entry in config["quantization"].items()
                 if isinstance(entry, dict)}  # fmt: skip
    assert overrides  # routers
    own, plain = dict(stored), dict(stored)
    random = np.random.Generator(np.random.PCG64(12))
    for name in stored:
        module = name.removesuffix(".scales")
        if not name.endswith(".scales") or module in overrides:
            continue
        weight = stored[f"{module}.weight"].data
        shape = (*weight.shape[:-1], weight.shape[-1] * MODES[mode]["bits"] // 4)
        words, scales = random_of(mode, random, shape, SCALES[mode])
        own[f"{module}.weight"], own[name] = Stored("U32", words), Stored("U8", scales)
        plain[f"{module}.weight"] = encode(numbers(mode, words, scales), "F32")
        for tensors in (own, plain):
            del tensors[f"{module}.biases"]
        del plain[name]
    said = MODES[mode] | {"mode": mode} | overrides
    said = {"quantization": said, "quantization_config": said}
    return mode, config, config | said, own, plain


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    _, config, said, own, plain = made
    root = tmp_path_factory.mktemp("mode")
    return (write_checkpoint(root / "own", said, own, "mlx", 2),
            write_checkpoint(root / "plain", config, plain, "mlx", 1))  # fmt: skip


class TestSameNumbers(SameNumbers):
    TOKENS = prompt(4)


@pytest.fixture(scope="module")
def expected(folders):
    return logits(folders[0], TestSameNumbers.TOKENS)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mode": "nvfp5"}, "in mode affine, mxfp4, mxfp8 or nvfp4, found 'nvfp5'"),
     ({"mode": ["mxfp4"]}, "in mode affine, mxfp4, mxfp8 or nvfp4, found"),
     ({"bits": 6}, r"expected \d bits in groups of \d+, found 6 and"),
     ({"group_size": 64}, r"expected \d bits in groups of \d+, found \d and 64"),
     ({"mode": "affine", "group_size": 64}, r"U8|U32")],
)  # fmt: skip
def test_a_mode_that_does_not_fit_is_refused(made, tmp_path, change, message):
    _, _, said, own, _ = made
    said = said | {"quantization": said["quantization"] | change}
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write_checkpoint(tmp_path, said, own, "mlx", 1), **ROOM)


def test_scales_that_are_no_numbers_are_refused(made, tmp_path):
    _, _, said, own, _ = made
    name = next(name for name in own if name.endswith("q_proj.scales"))
    for tensor, message in (
        (Stored("U8", own[name].data[:, :1].copy()), re.escape(name)),
        (Stored("BF16", own[name].data.astype("<u2")), "expected U8"),
        (Stored("U8", np.full_like(own[name].data, 255)), "finite"),
    ):
        with pytest.raises(moeflux.FormatError, match=message):
            moeflux.load(write_checkpoint(tmp_path, said, own | {name: tensor}, "mlx", 1), **ROOM)
