"""The oracle itself: deterministic writer, exact quantiser, reference equal to the goldens."""

import hashlib

import numpy as np
import pytest

from oracle import Reference, affine, build, corrupt, goldens, safetensors_file
from oracle.big import build_big
from oracle.families import FAMILIES
from support.few import few

GOLDENS = sorted(path.stem for path in goldens.FOLDER.glob("*.npz"))


def digest(folder):
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def test_build_is_the_same_bytes_on_every_machine(tmp_path):
    small = {"num_hidden_layers": 1, "num_experts": 4, "hidden_size": 64}
    assert digest(build(tmp_path / "a", "qwen3_moe", "hf-bf16", 7, **small)) == "0b44f1e3f85f3971"
    assert digest(build(tmp_path / "b", "qwen3_next", "mlx-q4", 7, **small)) == "917523e23dde4b89"


def test_seed_changes_every_tensor(tmp_path):
    small = {"num_hidden_layers": 1, "num_experts": 2, "shards": 1}
    files = [build(tmp_path / str(seed), "qwen3_next", "hf-f32", seed, **small) for seed in (0, 1)]
    first, second = (safetensors_file.read(f / "model.safetensors") for f in files)
    assert first.keys() == second.keys()
    assert all(not np.array_equal(first[name].data, second[name].data) for name in first)


@pytest.mark.parametrize("bits", affine.BITS)
@pytest.mark.parametrize("group_size", affine.GROUP_SIZES)
def test_quantiser_error_is_within_one_step_and_requantising_keeps_the_codes(bits, group_size):
    values = np.random.default_rng(0).standard_normal((5, 384)).astype(np.float32)
    words, scales, biases = affine.quantize(values, bits, group_size)
    assert words.shape == (5, 384 * bits // 32) and scales.shape == (5, 384 // group_size)
    back = affine.dequantize(words, scales, biases, bits)
    step = np.repeat(np.abs(scales), group_size, axis=1)
    assert np.all(np.abs(back - values) <= 1.001 * step)
    # Most codes are nearest; only a clipped end of a group may be up to a step away.
    assert np.mean(np.abs(back - values) <= 0.501 * step) > 0.9
    assert np.array_equal(affine.pack_codes(affine.unpack_codes(words, bits), bits), words)


def test_codes_are_one_little_endian_bit_stream():
    codes = np.arange(32) % 8
    expected = sum(int(code) << (3 * i) for i, code in enumerate(codes))
    packed = affine.pack_codes(codes[None], 3)[0]
    assert int.from_bytes(packed.tobytes(), "little") == expected


def test_mlx_files_start_their_data_at_an_odd_offset(tmp_path):
    file = build(tmp_path, "qwen3_moe", "mlx-q4", shards=1, num_experts=2) / "model.safetensors"
    assert int.from_bytes(file.read_bytes()[:8], "little") % 2 == 1


def test_wide_small_tensors_do_not_fit_bf16(tmp_path):
    folder = build(tmp_path, "qwen3_next", "hf-bf16-wide", shards=1, num_experts=2)
    tensors = safetensors_file.read(folder / "model.safetensors")
    for leaf in ("A_log", "dt_bias", "conv1d.weight", "norm.weight"):
        tensor = tensors[f"model.layers.0.linear_attn.{leaf}"]
        assert tensor.dtype == "F32"
        assert np.any(tensor.data.view(np.uint32) & 0xFFFF)


FEW = {name for name, _ in goldens.FEW}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FEW else pytest.mark.full) for n in GOLDENS]
)
def test_reference_equals_golden(name, tmp_path):
    golden = goldens.load(name)
    trace = Reference(golden.case.build(tmp_path)).forward(golden.tokens)
    worst, mean = goldens.TOLERANCE[golden.case.family]
    keys = [key for key in ("logits", "mlx_logits") if key in golden.arrays]
    for key in keys:
        difference = np.abs(trace.logits - golden.arrays[key])
        assert difference.max() <= worst and difference.mean() <= mean, key
    assert golden.moe_layers == sorted(trace.expert_ids)
    for layer in golden.moe_layers:
        assert np.array_equal(trace.expert_ids[layer], golden.arrays[f"expert_ids.{layer}"])
        weights = golden.arrays[f"expert_weights.{layer}"]
        np.testing.assert_allclose(trace.expert_weights[layer], weights, atol=1e-4)
    for layer, hidden in trace.hidden.items():
        rows = hidden[golden.arrays["hidden_positions"]]
        np.testing.assert_allclose(rows, golden.arrays["hidden"][layer], atol=5e-4, rtol=1e-4)
    chosen = trace.logits[golden.prompt_len - 1 : -1].argmax(axis=1)
    assert chosen.tolist() == golden.tokens[golden.prompt_len :]


@pytest.mark.parametrize("name", few(3, [n for n in GOLDENS if goldens.CASES[n].same_as]))
def test_equal_forms_hold_equal_values(name, tmp_path):
    case = goldens.CASES[name]
    forms = (case.form, *case.same_as)
    logits = [Reference(case.build(tmp_path / f, f)).forward([5, 6, 7]).logits for f in forms]
    assert all(np.array_equal(logits[0], other) for other in logits[1:])


@pytest.mark.parametrize("family", few(1, FAMILIES))
@pytest.mark.parametrize(
    "change",
    [{"dialect": "transformers5"}, {"experts": "fused"}, {"experts": "split"}, {"shards": 1}],
    ids=str,
)
def test_layout_does_not_change_the_function(family, change, tmp_path):
    small = {"num_experts": 8, "num_hidden_layers": 4}
    plain = Reference(build(tmp_path / "a", family, "hf-f32", **small)).forward([1, 2, 3])
    other = Reference(build(tmp_path / "b", family, "hf-f32", **small, **change))
    assert np.array_equal(plain.logits, other.forward([1, 2, 3]).logits)


@pytest.mark.parametrize("name", corrupt.CORRUPTIONS)
def test_corruption_changes_the_checkpoint(name, tmp_path):
    def content():
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    hurt = corrupt.CORRUPTIONS[name]
    build(tmp_path, **hurt.build)
    before = content()
    hurt.apply(tmp_path)
    assert content() != before


def test_big_checkpoint_has_the_expert_bytes_it_promises_and_runs(tmp_path):
    sizes = {"hidden_size": 256, "moe_intermediate_size": 128, "num_experts": 16}
    folder = build_big(tmp_path, "qwen3_moe", **sizes)
    tensors = [t for f in folder.glob("*.safetensors") for t in safetensors_file.read(f).items()]
    experts = sum(t.data.nbytes for name, t in tensors if ".switch_mlp." in name)
    assert experts == 3 * 16 * 3 * 256 * 128 * 9 // 16
    assert np.isfinite(Reference(folder).forward([1, 2, 3]).logits).all()
