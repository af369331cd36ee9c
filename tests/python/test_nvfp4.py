"""ModelOpt's releases of Nemotron: floats of 4 bits, of 8, and plain ones in one checkpoint.

The numbers are E2M1 times E4M3 times one float32, by OCP's specification and in float64.
"""

import json

import numpy as np
import pytest

import moeflux
from moeflux import _core
from moeflux.converting import Settings, convert
from moeflux.packing import pack
from oracle import build
from oracle.safetensors_file import Stored, encode, read
from oracle.writer import write_checkpoint
from support import tensors
from support.float8 import e4m3
from support.float32_twin import ROOM, SameNumbers, logits, prompt

MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
# As of Nemotron-3-Nano-30B-A3B-NVFP4.
METHOD = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "ignore": ["lm_head"],
          "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}}  # fmt: skip
SUPER = np.float32(5 * 2.0**-14)  # of few bits, so that no product is rounded


def numbers(codes, scales, factor=SUPER):
    """float64 [out, columns] of bytes of two codes each and a scale for 16 columns."""
    codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
    elements = MAGNITUDES[codes & 7] * np.where(codes & 8, -1.0, 1.0)
    return elements * np.repeat(e4m3(scales), 16, 1) * np.float64(factor)


def random_bytes(random, shape, low, high):
    return random.integers(low, high, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A config, a release's tensors and the same numbers as float32."""
    source = build(tmp_path_factory.mktemp("source"), "nemotron_h", "hf-bf16", 6)
    random = np.random.Generator(np.random.PCG64(12))
    own, plain = {}, {}
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in read(file).items():
            own[name] = plain[name] = tensor
            if not name.endswith("_proj.weight") or ".mtp." in name:
                continue
            out, columns = tensor.data.shape
            module = name.removesuffix(".weight")
            if ".experts." in name:
                codes = random_bytes(random, (out, columns // 2), 0, 256)
                scales = random_bytes(random, (out, columns // 16), 0x50, 0x70)
                own[name], own[f"{module}.weight_scale"] = (
                    Stored("U8", codes), Stored("F8_E4M3", scales))  # fmt: skip
                own[f"{module}.weight_scale_2"] = encode(SUPER, "F32")
                plain[name] = encode(numbers(codes, scales), "F32")
            elif "in_proj" in name or "out_proj" in name:
                codes = random_bytes(random, (out, columns), 0, 256)
                codes[codes & 127 == 127] = 0
                factor = encode(np.array(random.uniform(0.2, 1) / 2e3), "F32")
                own[name], own[f"{module}.weight_scale"] = Stored("F8_E4M3", codes), factor
                plain[name] = encode(e4m3(codes) * np.float64(factor.data), "F32")
            else:
                continue
            own[f"{module}.input_scale"] = encode(np.float32(7), "F32")
    return json.loads((source / "config.json").read_text()), own, plain


def write(folder, made, change=None):
    config, own, _ = made
    own = dict(own)
    if change:
        change(own)
    return write_checkpoint(folder, config | {"quantization_config": METHOD}, own, "hf", 2)


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    root = tmp_path_factory.mktemp("nvfp4")
    config, _, plain = made
    return write(root / "own", made), write_checkpoint(root / "plain", config, plain, "hf", 1)


class TestSameNumbers(SameNumbers):
    TOKENS = prompt(4)


@pytest.fixture(scope="module")
def expected(folders):
    return logits(folders[0], TestSameNumbers.TOKENS)[0]


@pytest.mark.parametrize("factor", [1, -0.75, 2.0**-126, 2.0**100])
def test_every_code_under_every_scale_is_its_number(factor):
    codes = np.tile(np.arange(256, dtype=np.uint8), (127, 1))
    scales = np.repeat(np.arange(127, dtype=np.uint8)[:, None], 32, 1)
    supers = np.full(127, factor, np.float32).view(np.uint8)
    found = _core.decode_planes("nvfp4_tensor", 512, 16, "F32",
                                [codes.reshape(-1), scales.reshape(-1), supers])  # fmt: skip
    expected = numbers(codes, scales, np.float32(factor))
    assert np.allclose(found, expected, rtol=2e-7, atol=1e-44)


@pytest.mark.parametrize("packed_first", [False, True])
def test_it_converts_as_the_same_numbers_do(folders, tmp_path, packed_first):
    source = pack(folders[0], tmp_path / "packed") if packed_first else folders[0]
    found = convert(source, tmp_path / "found", Settings(6, 4, 32))
    same = convert(folders[1], tmp_path / "same", Settings(6, 4, 32))
    assert tensors.differing(tensors.of(found), tensors.of(same)) == []


UP = "backbone.layers.1.mixer.experts.3.up_proj"


def changed(name, data, dtype):
    return lambda own: own.update({f"{UP}.{name}": Stored(dtype, np.array(data))})


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda own: own.pop(f"{UP}.weight_scale_2"), "F8_E4M3"),
     (lambda own: own.pop(f"{UP}.weight_scale"), "expected"),
     (changed("weight_scale_2", np.ones(2, np.float32), "F32"), r"F32 \[1, 1\].*found F32 \[2\]"),
     (changed("weight_scale_2", np.float32("inf"), "F32"), "finite"),
     (changed("weight_scale", np.full((64, 8), 0x7F, np.uint8), "F8_E4M3"), "finite"),
     (changed("weight_scale", np.zeros((64, 4), np.uint8), "F8_E4M3"), r"\[64, 8\]"),
     (changed("weight", np.zeros((64, 32), np.uint8), "U8"), r"U8 \[64, 64\]")],
    ids=range(7),
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(made, tmp_path, change, words):
    with pytest.raises(moeflux.FormatError, match=rf"(?s){words}"):
        moeflux.load(write(tmp_path, made, change), **ROOM).session().step(list(range(100)))
