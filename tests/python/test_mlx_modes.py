"""MLX's modes of quantisation beside affine codes: the same numbers as float32.

The numbers are those of OCP's specification of microscaling formats, taken here in float64; where
mlx is installed, its own decoder must agree.
"""

import json
import re

import numpy as np
import pytest

import moeflux
from oracle import build
from oracle.safetensors_file import Stored, encode, read
from oracle.writer import write_checkpoint
from support.float32_twin import ROOM, SameNumbers, logits, prompt

FAMILIES = ("qwen3_moe", "qwen3_next")
MODE = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def numbers(words, scales):
    """float64 [..., columns] of words [..., columns / 8] and exponents [..., columns / 32]."""
    codes = words[..., None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    codes = codes.reshape(*scales.shape, 32)
    elements = MAGNITUDES[codes & 7] * np.where(codes & 8, -1.0, 1.0)
    values = elements * np.exp2(scales.astype(np.float64) - 127)[..., None]
    return values.reshape(*scales.shape[:-1], -1)


def test_numbers_are_those_of_mlx():
    mx = pytest.importorskip("mlx.core")
    scales = np.arange(2, 253, dtype=np.uint8)[:, None]  # of products that float32 holds
    words = np.random.Generator(np.random.PCG64(1)).integers(0, 1 << 32, (251, 4), np.uint32)
    theirs = mx.dequantize(mx.array(words), mx.array(scales), group_size=32, bits=4, mode="mxfp4",
                           dtype=mx.float32)  # fmt: skip
    assert np.array_equal(numbers(words, scales), np.array(theirs))


@pytest.fixture(scope="module", params=FAMILIES)
def made(request, tmp_path_factory):
    """A config, a checkpoint's tensors and the same numbers as float32.

    Routers keep affine codes by an override, as mlx-lm leaves them.
    """
    source = build(tmp_path_factory.mktemp("source"), request.param, "mlx-q4", 6)
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
        groups = (*weight.shape[:-1], weight.shape[-1] // 4)
        words = random.integers(0, 1 << 32, weight.shape, np.uint32)
        scales = random.integers(118, 123, groups).astype(np.uint8)
        own[f"{module}.weight"], own[name] = Stored("U32", words), Stored("U8", scales)
        plain[f"{module}.weight"] = encode(numbers(words, scales), "F32")
        for tensors in (own, plain):
            del tensors[f"{module}.biases"]
        del plain[name]
    said = {"quantization": MODE | overrides, "quantization_config": MODE | overrides}
    return config, config | said, own, plain


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    config, said, own, plain = made
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
    [({"mode": "nvfp4"}, "in mode affine or mxfp4, found 'nvfp4'"),
     ({"mode": ["mxfp4"]}, "in mode affine or mxfp4, found"),
     ({"bits": 8}, "expected 4 bits in groups of 32, found 8 and 32"),
     ({"group_size": 64}, "expected 4 bits in groups of 32, found 4 and 64"),
     ({"mode": "affine"}, r"U8"),
     ({"mode": "affine", "group_size": 64}, r"U8")],
)  # fmt: skip
def test_a_mode_that_does_not_fit_is_refused(made, tmp_path, change, message):
    _, said, own, _ = made
    said = said | {"quantization": said["quantization"] | change}
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write_checkpoint(tmp_path, said, own, "mlx", 1), **ROOM)


def test_scales_that_are_no_exponents_are_refused(made, tmp_path):
    _, said, own, _ = made
    name = next(name for name in own if name.endswith("q_proj.scales"))
    for tensor, message in (
        (Stored("U8", own[name].data[:, :1].copy()), re.escape(name)),
        (Stored("BF16", own[name].data.astype("<u2")), "expected U8"),
        (Stored("U8", np.full_like(own[name].data, 255)), "finite"),
    ):
        with pytest.raises(moeflux.FormatError, match=message):
            moeflux.load(write_checkpoint(tmp_path, said, own | {name: tensor}, "mlx", 1), **ROOM)
