"""AWQ and GPTQ convert as the numbers that they mean, packed here as their makers' tools do."""

import json

import numpy as np
import pytest

import moeflux
from moeflux.converting import Settings, convert
from oracle import affine, build, safetensors_file
from oracle.safetensors_file import Stored, encode
from oracle.writer import write_checkpoint
from support import tensors

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # AutoAWQ's order_map: the column that goes to each place
GROUP = 32
METHODS = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False},
    "gptq8": {"quant_method": "gptq", "bits": 8, "group_size": GROUP},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
}


def words(numbers, bits, order=None):
    """int32 [..., n * bits / 32] of [..., n], one after the other as a loop would."""
    of_word = 32 // bits
    groups = numbers.astype(np.uint64).reshape(*numbers.shape[:-1], -1, of_word)
    out = np.zeros(groups.shape[:-1], np.uint64)
    for place in range(of_word):
        out |= groups[..., order[place] if order else place] << np.uint64(bits * place)
    return out.astype(np.uint32).view(np.int32)


def packed(module, codes, zeros, scales, method):
    """The tensors of a matrix of codes [out, in], zeros and scales [out, in / group]."""
    bits, groups = method["bits"], zeros.shape[1]
    if method["quant_method"] == "awq":
        stored = {"qweight": words(codes.T, bits, AWQ_ORDER),
                  "qzeros": words(zeros.T, bits, AWQ_ORDER)}  # fmt: skip
    else:
        less = 0 if method.get("checkpoint_format") == "gptq_v2" else 1
        order = np.repeat(np.arange(groups, dtype=np.int32), codes.shape[1] // groups)
        stored = {"qweight": words(codes, bits).T, "qzeros": words(zeros.T - less, bits),
                  "g_idx": order}  # fmt: skip
    found = {f"{module}.{part}": Stored("I32", np.ascontiguousarray(value))
             for part, value in stored.items()}  # fmt: skip
    return found | {f"{module}.scales": encode(np.ascontiguousarray(scales.T), "F16")}


def made(folder, name, change=None, group=GROUP, kept=None):
    """A checkpoint of the method, and one of the same numbers as float32.

    `kept` gets codes, zeros and scales by module.
    """
    method, random = METHODS[name] | {"group_size": group}, np.random.default_rng(4)
    source = build(folder / "source", "qwen3_moe", "hf-f16", 3, branch_gain=0.25, experts="split",
                   num_hidden_layers=2, num_experts=6)  # fmt: skip
    ours, plain = {}, {}
    for file in sorted(source.glob("*.safetensors")):
        for tensor, stored in safetensors_file.read(file).items():
            if not tensor.endswith("_proj.weight"):
                ours[tensor] = plain[tensor] = stored
                continue
            out, columns = stored.data.shape
            top = (1 << method["bits"]) - 1
            codes = random.integers(0, top + 1, (out, columns))
            groups = (out, max(columns // group, 1))
            zeros = random.integers(1, top + 1, groups)
            scales = (random.uniform(0.5, 1.5, groups) / columns**0.5 / top).astype(np.float16)
            scales = scales.astype(np.float32)
            ours |= packed(tensor.removesuffix(".weight"), codes, zeros, scales, method)
            if kept is not None:
                kept[tensor.removesuffix(".weight")] = codes, zeros, scales
            width = columns // groups[1]
            numbers = codes - np.repeat(zeros, width, 1)
            plain[tensor] = encode(numbers * np.repeat(scales, width, 1), "F32")
    if change:
        change(ours)
    config = json.loads((source / "config.json").read_text())
    hub = write_checkpoint(folder / "hub", config | {"quantization_config": method}, ours, "hf", 2)
    return hub, write_checkpoint(folder / "plain", config, plain, "hf", 1)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("piece", [100, 1 << 18])
def test_it_becomes_what_the_same_numbers_would(name, piece, tmp_path, monkeypatch):
    from moeflux.converting import rows

    monkeypatch.setattr(rows, "PIECE", piece * 8)
    hub, plain = made(tmp_path, name)
    with pytest.raises(moeflux.FormatError, match=r"quant_method.*`moeflux convert` reads it"):
        moeflux.load(hub)
    settings = Settings(5, group=32)
    found = convert(hub, tmp_path / "found", settings)
    expected = convert(plain, tmp_path / "expected", settings)
    assert tensors.differing(tensors.of(found), tensors.of(expected)) == []
    said = json.loads((found / "config.json").read_text())
    assert "quant_method" not in said["quantization_config"]
    session = moeflux.load(found, memory="256MiB", context=64).session()
    assert np.isfinite(session.step([1, 2, 3])).all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("own", "wanted"), [(32, 32), (64, 64), (64, 32), (128, 64)])
def test_codes_are_kept_where_bits_and_groups_allow_it(name, own, wanted, tmp_path):
    """The zero times the scale is the bias, rounded; a scale of many columns stands for fewer."""
    kept = {}
    hub, plain = made(tmp_path, name, group=own, kept=kept)
    bits = METHODS[name]["bits"]
    rules = ("lm_head=plain", "embed_tokens=plain")
    found = convert(hub, tmp_path / "found", Settings(bits, group=wanted, rules=rules))
    stored = {tensor: value for file in found.glob("*.safetensors")
              for tensor, value in safetensors_file.read(file).items()}  # fmt: skip
    attention = [module for module in kept if "self_attn" in module]
    assert len(attention) == 8
    for module in attention:
        codes, zeros, scales = kept[module]
        times = min(own, codes.shape[1]) // wanted
        assert np.array_equal(affine.unpack_codes(stored[f"{module}.weight"].data, bits), codes)
        of_groups = {"scales": scales, "biases": -zeros * scales}
        for part, value in of_groups.items():
            expected = encode(np.repeat(value, times, 1), "F16")
            assert stored[f"{module}.{part}"].dtype == "F16"
            assert np.array_equal(stored[f"{module}.{part}"].data, expected.data)
    ours, theirs = (moeflux.load(each, memory="256MiB", context=64).session().step([1, 2, 3])
                    for each in (found, plain))  # fmt: skip
    assert np.abs(ours - theirs).mean() < 0.02 * np.abs(theirs).mean()


FIRST = "model.layers.0.self_attn.q_proj."


def without(part):
    return lambda stored: stored.pop(FIRST + part)


def cut(part):
    def change(stored):
        tensor = stored[FIRST + part]
        stored[FIRST + part] = Stored(tensor.dtype, tensor.data[:-1].copy())

    return change


def of_dtype(part, dtype, kind):
    def change(stored):
        stored[FIRST + part] = Stored(dtype, stored[FIRST + part].data.view(kind))

    return change


def shuffled(stored):
    stored[FIRST + "g_idx"].data[:2] = 1, 0


def infinite(stored):
    stored[FIRST + "scales"].data[0, 0] = np.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("scales"), "qweight, qzeros, scales of .*q_proj, found fewer"),
        (cut("qweight"), r"groups of a multiple of 32 columns, found 30 of .*q_proj"),
        (cut("qzeros"), r"I32 \[4, 16\] of .*q_proj\.qzeros, found I32 \[3, 16\]"),
        (cut("scales"), r"whole groups and words of .*q_proj"),
        (of_dtype("qweight", "U32", "<u4"), "expected I32 .*found U32"),
        (cut("g_idx"), r"I32 \[128\] of .*g_idx, found I32 \[127\]"),
        (shuffled, "q_proj.g_idx in order, found others: desc_act"),
        (infinite, r"finite scales and biases, found others in model\.layers\.0\.self_attn\.q_"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(change, words, tmp_path):
    hub, _ = made(tmp_path, "gptq", change)
    with pytest.raises(moeflux.FormatError, match=words) as caught:
        convert(hub, tmp_path / "found")
    assert str(caught.value).endswith((".safetensors)", f"({hub})"))
    assert ".safetensors" in str(caught.value) or "found fewer" in words


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("awq", {"bits": 3}, "4 bits of awq, found 3"),
        ("gptq", {"bits": 3}, "2 or 4 or 8 bits of gptq, found 3"),
        ("gptq", {"bits": [4]}, "bits of gptq"),
        ("gptq", {"bits": 4.0}, r"bits of gptq, found 4\.0"),
        ("awq", {"bits": 4.0}, r"bits of awq, found 4\.0"),
        ("awq", {"bits": True}, "bits of awq, found True"),
        ("awq", {"version": "gemv"}, "version 'gemm' of awq, found 'gemv'"),
        ("gptq", {"checkpoint_format": "marlin"}, "'gptq' or 'gptq_v2', found 'marlin'"),
    ],
)
def test_settings_that_are_not_done_are_refused_by_name(name, setting, words, tmp_path):
    hub, _ = made(tmp_path, name)
    config = json.loads((hub / "config.json").read_text())
    config["quantization_config"] |= setting
    (hub / "config.json").write_text(json.dumps(config))
    with pytest.raises(moeflux.FormatError, match=rf"{words}.*config\.json"):
        convert(hub, tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_a_matrix_that_is_too_large_to_hold_is_refused(tmp_path, monkeypatch):
    from moeflux.converting import transposed

    hub, _ = made(tmp_path, "awq")
    monkeypatch.setattr(transposed, "MAX_BYTES", 8000)
    with pytest.raises(moeflux.FormatError, match=r"at most 8000 bytes of .*_proj, found \d+"):
        convert(hub, tmp_path / "found")


def test_methods_are_those_that_loading_sends_here():
    from moeflux.converting import transposed
    from moeflux.families.config import CONVERTED

    assert set(transposed._BITS) == set(CONVERTED) == {m["quant_method"] for m in METHODS.values()}


def test_of_matrices_that_are_held_two_are_the_most(tmp_path, monkeypatch):
    """Codes, zeros and widened scales of two matrices, also while a third one is read."""
    from moeflux.converting import transposed

    hub, _ = made(tmp_path, "gptq")
    _, source = transposed.opened(moeflux.checkpoint.open_checkpoint(hub))
    original, held = source.stored, []

    def stored(tensor):
        held.append(len(source._held))
        return original(tensor)

    monkeypatch.setattr(source, "stored", stored)
    sizes = []
    for number in range(len(source.matrices)):
        sizes.append(sum(array.nbytes for array in source._tensors(number)))
    source.close()
    assert len(source._held) == 2 and max(held) == 1
    assert source.held_bytes == sum(sorted(sizes)[-2:])


def test_matrices_that_are_held_leave_less_to_threads(tmp_path, monkeypatch):
    from moeflux import converting
    from moeflux.converting import rows, shards

    hub, _ = made(tmp_path, "gptq")
    used, write = [], shards.write
    monkeypatch.setattr(rows, "PIECE", 128)
    monkeypatch.setattr(converting, "WORK_BYTES", 40_000)

    def spied(shard, checkpoint, source, threads, *others):
        used.append((threads, source.held_bytes))
        write(shard, checkpoint, source, threads, *others)

    monkeypatch.setattr(shards, "write", spied)
    convert(hub, tmp_path / "found", threads=16)
    for threads, held_bytes in used:
        assert 1 <= threads < 9 and (threads + 1) * 32 * 128 > 40_000 - held_bytes


def test_what_is_no_number_is_told_by_expert_and_once_by_file(tmp_path):
    def spoil(stored):
        stored["model.layers.1.mlp.experts.3.up_proj.scales"].data[0, 0] = np.inf

    hub, _ = made(tmp_path, "awq", spoil)
    with pytest.raises(moeflux.FormatError, match=r"in model\S+up_proj of expert 3 \(") as caught:
        convert(hub, tmp_path / "found")
    assert str(caught.value).count(".safetensors") == 1
