"""Checkpoints of compressed-tensors' "pack-quantized" integers: the same numbers as float32.

Codes are packed as PackedQuantizationCompressor says: an integer of -8..7 plus 8 is bits 4 i of
an int32 of eight columns; a number is the integer, less the zero of its group where there is one,
times its scale. Zeros are packed alike, by eight rows.
"""

import json

import numpy as np
import pytest

import moeflux
from moeflux import _core
from moeflux.converting import Settings, convert
from oracle import build
from oracle.safetensors_file import Stored, decode, encode, read
from oracle.writer import write_checkpoint
from support import tensors
from support.float32_twin import ROOM, SameNumbers, logits, prompt

WEIGHTS = {"actorder": None, "block_structure": None, "dynamic": False, "group_size": 32,
           "num_bits": 4, "observer": "minmax", "observer_kwargs": {}, "strategy": "group",
           "symmetric": True, "type": "int"}  # fmt: skip
SCHEME = {"input_activations": None, "output_activations": None, "targets": ["Linear"],
          "weights": WEIGHTS}  # fmt: skip
METHOD = {"config_groups": {"group_0": SCHEME}, "format": "pack-quantized",
          "global_compression_ratio": None, "ignore": ["lm_head", "re:.*mlp.gate$"],
          "kv_cache_scheme": None, "quant_method": "compressed-tensors",
          "quantization_status": "compressed", "sparsity_config": {}}  # fmt: skip


def method(group=32, **changes):
    """The config's section, with changes of the scheme's weights."""
    weights = WEIGHTS | {"group_size": abs(group), "symmetric": group > 0} | changes
    return METHOD | {"config_groups": {"group_0": SCHEME | {"weights": weights}}}


def by_rows(zeros):
    """int32 [ceil(out / 8), groups] of zeros [out, groups] of -8..7."""
    return packed(np.pad(zeros, ((0, -len(zeros) % 8), (0, 0)), constant_values=-8).T).T.copy()


def packed(integers):
    """int32 [out, columns / 8] of integers [out, columns] of -8..7."""
    codes = (integers + 8).astype(np.uint32).reshape(len(integers), -1, 8)
    return (codes << (4 * np.arange(8, dtype=np.uint32))).sum(-1, dtype=np.uint32).view("<i4")


@pytest.fixture(scope="module", params=(32, -64), ids=("groups of 32", "groups of 64, with zeros"))
def made(request, tmp_path_factory):
    """The group, negative where there are zeros, a config, a release's tensors and the same
    numbers as float32."""
    group = abs(request.param)
    source = build(tmp_path_factory.mktemp("source"), "qwen3_moe", "hf-bf16", 6, experts="split",
                   hidden_size=128, moe_intermediate_size=64)  # fmt: skip
    stored = {name: tensor for file in sorted(source.glob("*.safetensors"))
              for name, tensor in read(file).items()}  # fmt: skip
    own, plain = dict(stored), dict(stored)
    random = np.random.Generator(np.random.PCG64(12))
    for name, tensor in stored.items():
        if not name.endswith("_proj.weight"):
            continue
        out, columns = tensor.data.shape
        integers = random.integers(-8, 8, (out, columns))
        scales = encode(random.uniform(-0.05, 0.05, (out, columns // group)), "BF16")
        own |= {f"{name}_packed": Stored("I32", packed(integers)), f"{name}_scale": scales,
                f"{name}_shape": Stored("I64", np.array([out, columns], "<i8"))}  # fmt: skip
        del own[name]
        if request.param < 0:
            zeros = random.integers(-8, 8, scales.data.shape)
            own[f"{name}_zero_point"] = Stored("I32", by_rows(zeros))
            integers = integers - np.repeat(zeros, group, axis=1)
        values = integers * np.repeat(decode(scales).astype(np.float64), group, axis=1)
        plain[name] = encode(values, "F32")
    config = json.loads((source / "config.json").read_text())
    return request.param, config, own, plain


def write(folder, made, section, change=None):
    _, config, own, _ = made
    own = dict(own)
    if change is not None:
        change(own)
    return write_checkpoint(folder, config | {"quantization_config": section}, own, "hf", 2)


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    group, config, _, plain = made
    root = tmp_path_factory.mktemp("compressed")
    return (write(root / "own", made, method(group)),
            write_checkpoint(root / "plain", config, plain, "hf", 1))  # fmt: skip


class TestSameNumbers(SameNumbers):
    TOKENS = prompt(4)


@pytest.fixture(scope="module")
def expected(folders):
    return logits(folders[0], TestSameNumbers.TOKENS)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_bits": 8}, "num_bits 4 in quantization_config, found 8"),
     ({"num_bits": True}, "num_bits 4"),
     ({"type": "float"}, "type 'int'"),
     ({"strategy": "channel", "group_size": None}, "strategy 'group'"),
     ({"symmetric": None}, "symmetric True or False in quantization_config, found None"),
     ({"symmetric": 1}, "symmetric True"),
     ({"dynamic": True}, "dynamic False"),
     ({"actorder": "group"}, "actorder .*found 'group'"),
     ({"group_size": 48}, "group_size 32, 64, 128, found 48"),
     ({"group_size": [32]}, "group_size 32, 64, 128, found"),
     ({"group_size": 128}, "symmetric4 in groups of 128|whole groups of 128")],
    ids=str,
)  # fmt: skip
def test_schemes_of_weights_that_are_not_done_are_refused(made, tmp_path, change, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, made, method(made[0], **change)), **ROOM)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": "nvfp4-pack-quantized"}, "format 'pack-quantized' or .* in .*found 'nvfp4"),
     ({"format": None}, "format 'pack-quantized'"),
     ({"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
     ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
     ({"transform_config": {"config_groups": {"R1": 1}}}, "transform_config"),
     ({"config_groups": {}}, "one scheme of weights in config_groups, found 0"),
     ({"config_groups": [SCHEME]}, "expected an object for config_groups"),
     ({"config_groups": {"group_0": 7}}, "expected a scheme of weights in 'group_0', found 7"),
     ({"config_groups": {"group_0": SCHEME | {"input_activations": {"num_bits": 8}}}},
      "input_activations None"),
     ({"config_groups": {"a": SCHEME, "b": SCHEME | {"weights": WEIGHTS | {"group_size": 64}}}},
      "one scheme of weights in config_groups, found 2"),
     ({"quant_method": "gptq"}, "fp8, modelopt or MLX's, found quant_method 'gptq'")],
    ids=str,
)  # fmt: skip
def test_configs_that_are_not_done_are_refused(made, tmp_path, change, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, made, method(made[0]) | change), **ROOM)


def toggle(own, name):
    """Leaves out zeros, or adds some."""
    if own.pop(name, None) is None:
        own[name] = Stored("I32", np.zeros((4, 4), "<i4"))


Q = "model.layers.0.self_attn.q_proj.weight"
HOSTILE = {
    "no codes": (lambda own: own.pop(f"{Q}_packed"), r"q_proj\.weight"),
    "no scales": (lambda own: own.pop(f"{Q}_scale"), "expected dtype F32, F16, BF16, found U32"),
    "both": (lambda own: own.update({Q: Stored("BF16", np.zeros((4, 4), "<u2"))}),
             r"q_proj\.weight or .*q_proj\.weight_packed, found both"),
    "both scales": (lambda own: own.update({f"{Q[:-7]}.scales": own[f"{Q}_scale"]}),
                    r"q_proj\.scales or .*q_proj\.weight_scale, found both"),
    "few": (lambda own: own.update({f"{Q}_packed": Stored("I32", own[f"{Q}_packed"].data[:, 1:]
            .copy())}), r"symmetric4 in groups of"),
    "other zeros": (lambda own: toggle(own, f"{Q}_zero_point"), r"no place for|q_proj\.zeros"),
    "another dtype": (lambda own: own.update({f"{Q}_packed": Stored(
        "F32", own[f"{Q}_packed"].data.view("<f4"))}), "expected U32"),
    "no number": (lambda own: own.update({f"{Q}_scale": Stored(
        "BF16", np.full_like(own[f"{Q}_scale"].data, 0x7f80))}), "finite"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_tensors_that_do_not_fit_are_refused_by_name(made, tmp_path, change, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, made, method(made[0]), change), **ROOM)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_code_less_every_zero_is_decoded_exactly(dtype):
    """A row is for a zero; its words hold that of the row alone."""
    codes = np.arange(16).repeat(2).astype(np.uint32)
    words = (codes.reshape(4, 8) << (4 * np.arange(8, dtype=np.uint32))).sum(1, dtype="<u4")
    zeros = np.arange(16, dtype="<u4")
    scales = encode(np.linspace(-0.03, 0.03, 16, dtype=np.float32), dtype)
    found = _core.decode_planes("asymmetric4", 32, 32, dtype, [
        np.ascontiguousarray(part).view(np.uint8).reshape(-1)
        for part in (np.tile(words, 16), scales.data, zeros)])  # fmt: skip
    integers = codes[None].astype(np.float64) - zeros[:, None]
    assert np.array_equal(found, (integers * decode(scales)[:, None]).astype(np.float32))


def test_it_converts_as_the_same_numbers_do(folders, tmp_path):
    settings = Settings(6, 4, 32)
    found = convert(folders[0], tmp_path / "found", settings)
    same = convert(folders[1], tmp_path / "same", settings)
    assert tensors.differing(tensors.of(found), tensors.of(same)) == []
