"""Checkpoints of 8-bit floats by blocks of 128 x 128, rows or matrices: the numbers as float32.

They are those of OCP's specification (E4M3) times the scale of their block, row or matrix, in
float64. Both widths leave blocks that are cut, as checkpoints' own do.
"""

import json

import numpy as np
import pytest

import moeflux
from moeflux import _core
from moeflux.converting import Settings, convert
from moeflux.packing import pack
from oracle import build
from oracle.safetensors_file import Stored, decode, encode, read
from oracle.writer import write_checkpoint
from support import tensors
from support.float8 import e4m3
from support.float32_twin import ROOM, SameNumbers, logits, prompt

HIDDEN, WIDTH = 192, 160
QUANTISED = ("_proj.weight", "_proj_qkvz.weight", "_with_mqa.weight", ".w1.weight", ".w2.weight",
             ".w3.weight")  # fmt: skip
# As of Qwen3-30B-A3B-FP8.
METHOD = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
          "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"],
          "weight_block_size": [128, 128]}  # fmt: skip


# As of GLM-4.5-Air-FP8.
WEIGHTS = {"block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8,
           "strategy": "channel", "symmetric": True, "type": "float"}  # fmt: skip
ACTIVATIONS = WEIGHTS | {"dynamic": True, "strategy": "token"}
BY_ROWS = {"config_groups": {"group_0": {"input_activations": ACTIVATIONS, "targets": ["Linear"],
                                         "output_activations": None, "weights": WEIGHTS}},
           "format": "float-quantized", "ignore": ["lm_head"], "kv_cache_scheme": None,
           "quant_method": "compressed-tensors"}  # fmt: skip


# As of Mistral-Small-4, and of Nemotron-3-Nano-30B-A3B-FP8.
BY_TENSORS = METHOD | {"activation_scheme": "static", "weight_block_size": None}
MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8},
            "ignore": ["lm_head"]}  # fmt: skip


def by_rows(weights=None, activations=None):
    """That section with changes."""
    scheme = BY_ROWS["config_groups"]["group_0"]
    scheme = scheme | {"weights": WEIGHTS | (weights or {}),
                       "input_activations": ACTIVATIONS | (activations or {})}  # fmt: skip
    return BY_ROWS | {"config_groups": {"group_0": scheme}}


BY_TENSORS_TOO = by_rows({"strategy": "tensor"}, {"dynamic": False, "strategy": "tensor"})
# How the names of scales end, and of what says something of activations.
ENDS = {"fp8": ("_scale_inv", "activation_scale"), "compressed-tensors": ("_scale", "input_scale"),
        "modelopt": ("_scale", "input_scale")}  # fmt: skip


def is_quantised(name):
    return name.endswith((*QUANTISED, "gate_up_proj", "experts.down_proj"))


def factors(scales, out, columns):
    """A scale for each number, of scales a block, a row or a matrix."""
    if scales.size == 1 or scales.shape[-2:] == (out, 1) or scales.shape[-2:] == (1, 1):
        return scales
    return np.repeat(np.repeat(scales, 128, 0), 128, 1)[:out, :columns]


def shape_of_scales(method, shape):
    if method in (BY_TENSORS, BY_TENSORS_TOO, MODELOPT):
        return (shape[0], 1, 1) if len(shape) == 3 else ()
    return (-(-shape[0] // 128), -(-shape[1] // 128)) if method is METHOD else (shape[0], 1)


def make(root, family, dtype, method=METHOD, experts="split", **options):
    """A config, a release's tensors and the same numbers as float32."""
    width = "intermediate_size" if family == "minimax_m2" else "moe_intermediate_size"
    source = build(root, family, "hf-bf16", 6, experts=experts, hidden_size=HIDDEN,
                   **{width: WIDTH}, **options)  # fmt: skip
    own, plain = {}, {}
    random = np.random.Generator(np.random.PCG64(12))
    end, other = ENDS[method["quant_method"]]
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in read(file).items():
            own[name] = plain[name] = tensor
            if not is_quantised(name):
                continue
            shape = tensor.data.shape
            codes = random.integers(0, 256, shape).astype(np.uint8)
            codes[codes & 127 == 127] = 0
            of = shape_of_scales(method, shape)
            scales = encode(np.array(random.uniform(0.2, 1, of) / 2e3), dtype)
            own[name] = Stored("F8_E4M3", codes)
            own[f"{name}{end}"] = scales
            if not of:  # numbers that are none of the weights'
                own[name.replace("weight", other)] = encode(np.float32(7), "F32")
            if method is MODELOPT and name.endswith("k_proj.weight"):
                own[name.replace("weight", "k_scale")] = encode(np.float32(7), "F32")
            of_each = factors(decode(scales).astype(np.float64), *shape[-2:])
            plain[name] = encode(e4m3(codes) * of_each, "F32")
    config = json.loads((source / "config.json").read_text())
    return config | {"quantization_config": method}, own, plain


@pytest.fixture(scope="module",
                params=[("qwen3_moe", "BF16"), ("deepseek_v3", "F32"),
                        ("glm4_moe", "BF16", BY_ROWS),
                        ("mistral4", "F32", BY_TENSORS, "fused"),
                        ("nemotron_h", "F32", MODELOPT),
                        ("mixtral", "BF16", BY_TENSORS_TOO),
                        pytest.param(("minimax_m2", "F32"), marks=pytest.mark.full)],
                ids=lambda params: params[0])  # fmt: skip
def made(request, tmp_path_factory):
    """Of a family and a dtype of scales."""
    return make(tmp_path_factory.mktemp("source"), *request.param)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """That of one of them."""
    return make(tmp_path_factory.mktemp("source"), "qwen3_moe", "BF16")


def write(folder, made, change=None, method=None):
    """The release's folder, after a `change` of its tensors or with another `method`."""
    config, own, _ = made
    own = dict(own)
    if change is not None:
        change(own)
    if method is not None:
        config = config | {"quantization_config": method}
    return write_checkpoint(folder, config, own, "hf", 2)


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    root = tmp_path_factory.mktemp("fp8")
    config, _, plain = made
    config = {name: value for name, value in config.items() if name != "quantization_config"}
    return write(root / "own", made), write_checkpoint(root / "plain", config, plain, "hf", 1)


class TestSameNumbers(SameNumbers):
    TOKENS = prompt(4)


@pytest.fixture(scope="module")
def expected(folders):
    return logits(folders[0], TestSameNumbers.TOKENS)[0]


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_every_byte_under_every_kind_of_scale_is_the_number_of_the_specification(dtype):
    codes = np.arange(256, dtype=np.uint8)
    codes[codes & 127 == 127] = 0
    stored = encode(np.float32([1, -0.75, 1 / 3, 2.0**-126, 2.0**-133, 7.5e35]), dtype)
    scales = np.repeat(stored.data[:, None], 2, 1)  # of the two halves of a row
    found = _core.decode_planes("fp8", 256, 128, dtype, [
        np.tile(codes, 6).reshape(-1), scales.reshape(-1).view(np.uint8)])  # fmt: skip
    expected = e4m3(codes) * decode(stored).astype(np.float64)[:, None]
    assert np.array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("packed_first", [False, True])
def test_it_converts_as_the_same_numbers_do(folders, tmp_path, packed_first):
    """A piece of rows need not begin where a block does."""
    source = pack(folders[0], tmp_path / "packed") if packed_first else folders[0]
    settings = Settings(6, 4, 32)
    found = convert(source, tmp_path / "found", settings)
    same = convert(folders[1], tmp_path / "same", settings)
    assert tensors.differing(tensors.of(found), tensors.of(same)) == []
    assert "fp8" not in (found / "config.json").read_text()


Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.experts.3.down_proj.weight"


def put(name, at, value):
    """Another number in a tensor."""

    def change(own):
        data = own[name].data.copy()
        data[at] = value
        own[name] = Stored(own[name].dtype, data)

    return change


def cut(name, rows):
    return lambda own: own.update({name: Stored(own[name].dtype, own[name].data[rows].copy())})


HOSTILE = {
    "no scales": (lambda own: own.pop(f"{Q}_scale_inv"), "F32, F16, BF16, found F8_E4M3"),
    "no codes": (lambda own: own.pop(Q), r"q_proj\.weight'"),
    "both": (lambda own: own.update({f"{Q[:-7]}.scales": own[f"{Q}_scale_inv"]}),
             r"q_proj\.scales or .*q_proj\.weight_scale_inv, found both"),
    "few codes": (cut(Q, np.s_[:, 1:]), r"F8_E4M3 \[\d+, 192\] \(fp8 in groups of 128, by config"),
    "few scales": (cut(f"{DOWN}_scale_inv", np.s_[:1]), r"\[2, 2\] .*found \w+ \[1, 2\]"),
    "of another dtype": (lambda own: own.update({Q: Stored("U8", own[Q].data)}),
                         "expected F8_E4M3 .*found U8"),
    "bytes": (lambda own: own.update({f"{Q}_scale_inv": Stored("U8", np.zeros((1, 2), np.uint8))}),
              "expected dtype F32, F16, BF16, found U8"),
    "no number": (put(Q, (3, 5), 0x7F), "finite"),
    "more": (lambda own: own.update({f"{Q}_scale": own[f"{Q}_scale_inv"]}), "no place for"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_tensors_that_do_not_fit_are_refused_by_name(release, tmp_path, change, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, release, change), **ROOM)


def test_a_weight_or_a_scale_of_an_expert_that_is_no_number_is_refused(release, tmp_path):
    for number, change in enumerate((put(DOWN, (7, 9), 0xFF),
                                     put(f"{DOWN}_scale_inv", (1, 1), 0x7F80))):  # fmt: skip
        own = write(tmp_path / str(number), release, change)
        with pytest.raises(moeflux.FormatError, match=r"finite.*(?s:.)*safetensors"):
            moeflux.load(own, **ROOM).session().step(list(range(100)))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"weight_block_size": [64, 128]}, r"weight_block_size \[128, 128\] or None in .*\[64, 128\]"),
     ({"weight_block_size": None}, r"\[1, 1\] \(fp8_tensor in groups of"),
     ({"weight_block_size": "none"}, "weight_block_size .*found 'none'"),
     ({"fmt": "e5m2"}, "fmt None or 'e4m3' or 'float8_e4m3fn' in .*found 'e5m2'"),
     ({"activation_scheme": "static"}, "activation_scheme .*found 'static'"),
     ({"quant_method": "modelopt", "quant_algo": "W4A16"}, "quant_algo .*found 'W4A16'"),
     ({"quant_method": "fbgemm_fp8"}, "fp8, modelopt or MLX's, found .*'fbgemm_fp8'")],
    ids=str,
)  # fmt: skip
def test_configs_that_are_not_done_are_refused(release, tmp_path, change, message):
    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, release, method=METHOD | change), **ROOM)


@pytest.mark.parametrize(
    ("section", "message"),
    [(by_rows({"strategy": "token"}), "strategy 'channel' or 'block' or 'tensor' in .*'token'"),
     (by_rows({"strategy": "tensor"}), r"\[1, 1\] \(fp8_tensor in groups of"),
     (by_rows({"num_bits": 4}), "num_bits 8 in"),
     (by_rows({"type": "int"}), "type 'float' in"),
     (by_rows({"strategy": "block", "block_structure": [64, 64]}), r"block_structure \[128, 128\]"),
     (by_rows(activations={"dynamic": "local"}), "activations' dynamic True in .*'local'"),
     (by_rows(activations={"dynamic": False}), "activations' dynamic True in .*found False"),
     (by_rows({"strategy": "block", "block_structure": [128, 128]}, {"dynamic": False}),
      "activations' dynamic True in .*found False"),
     (by_rows(activations={"type": "int"}), "activations' type 'float'"),
     (by_rows(), r"\[\d+, 1\] \(fp8_rows in groups of \d+, by config")],
    ids=str,
)  # fmt: skip
def test_schemes_of_compressed_tensors_that_are_not_done_are_refused(
    release, tmp_path, section, message
):
    def renamed(own):
        for name in [name for name in own if name.endswith("_scale_inv")]:
            own[name.removesuffix("_inv")] = own.pop(name)

    with pytest.raises(moeflux.FormatError, match=message):
        moeflux.load(write(tmp_path, release, renamed, section), **ROOM)


@pytest.mark.parametrize("head_dim", [32, pytest.param(128, marks=pytest.mark.full)])
def test_picked_rows_are_whole_blocks_or_refused(head_dim, tmp_path):
    """Qwen3-Next's fused projections of a delta net: queries, keys, values and gates by head."""
    shape = {"linear_key_head_dim": head_dim, "linear_value_head_dim": head_dim,
             "linear_num_key_heads": 2, "linear_num_value_heads": 4}  # fmt: skip
    config, own, plain = make(tmp_path / "source", "qwen3_next", "F32", **shape)
    for name in [name for name in own if ".in_proj_qkvz." not in name]:
        own.pop(f"{name}_scale_inv", None)
        if not name.endswith("_scale_inv"):
            own[name] = plain[name]
    folder = write(tmp_path / "own", (config, own, plain))
    if head_dim % 128:
        with pytest.raises(
            moeflux.FormatError, match=r"rows in whole blocks of 128, .*in_proj_qkvz"
        ):
            moeflux.load(folder, **ROOM)
        return
    config = {name: value for name, value in config.items() if name != "quantization_config"}
    twin = write_checkpoint(tmp_path / "plain", config, plain, "hf", 1)
    (found, _), (expected, _) = (logits(of, TestSameNumbers.TOKENS) for of in (folder, twin))
    assert np.abs(found - expected).max() <= 2e-4
