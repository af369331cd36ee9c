"""`convert` writes what MLX's own converter would, of every source, whatever stops it."""

import numpy as np
import pytest

import moeflux
from moeflux import converting
from moeflux.converting import Settings, convert
from moeflux.packing import pack
from oracle import Reference, affine, build, goldens, safetensors_file
from oracle.checkpoint import Checkpoint
from oracle.families import FAMILIES
from oracle.safetensors_file import Stored
from support import gguf_twin, tensors
from support.few import few
from support.folders import config_of, digest

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 40)]


ROOM = {"memory": "256MiB", "context": 64}


GENTLE = {"branch_gain": 0.25}


# The hub's gpt_oss has its experts transposed, which nothing reads.
PLAIN = {family: "mlx-bf16" if family == "gpt_oss" else "hf-bf16" for family in FAMILIES}


# `build` gives routers and gates of shared experts 8 bits, which `convert` leaves plain.
GATES = {family: ("gate=8:64",) for family in FAMILIES} | {
    "qwen2_moe": ("gate=8:64", "shared_expert_gate=8:64"),
    "qwen3_next": ("gate=8:64", "shared_expert_gate=8:64"),
    "qwen3_5_moe": ("gate=8:64", "shared_expert_gate=8:64"),
    "gemma4": ("router.proj=8:64",),
    "gpt_oss": ("router=4",),
}


def logits(folder):
    return moeflux.load(folder, **ROOM).session().step(TOKENS, all_logits=True)


SHAPES = [
    *((family, {}) for family in FAMILIES),
    ("qwen3_moe", {"tie_word_embeddings": True}),
    ("qwen3_moe", {"mlp_only_layers": [1]}),
    ("qwen3_moe", {"attention_bias": True, "head_dim": 64}),
    ("qwen3_next", {"mlp_only_layers": [0], "attention_bias": True}),
]


@pytest.mark.parametrize(("family", "shape"), few(4, SHAPES[::-1]), ids=str)
def test_a_hub_checkpoint_becomes_the_one_that_mlx_would_have(family, shape, tmp_path):
    """Names, shapes, codes, scales, biases and vectors: all bytes."""
    source = build(tmp_path / "source", family, PLAIN[family], 3, **shape)
    expected = build(tmp_path / "expected", family, "mlx-q4", 3, **shape)
    before = digest(source)
    rules = () if FAMILIES[family].router_is_plain else GATES[family]
    found = convert(source, tmp_path / "found", Settings(rules=rules))
    assert tensors.differing(tensors.of(found), tensors.of(expected)) == []
    said, wanted = config_of(found)["quantization"], config_of(expected)["quantization"]
    usual = {name: value for name, value in wanted.items() if not isinstance(value, dict)}
    assert {name: value for name, value in said.items() if not isinstance(value, dict)} == usual
    modules = {name for name in said if f"{name}.scales" in tensors.of(found)}
    assert all(said[name] == wanted[name] for name in modules)
    assert digest(source) == before
    assert (found / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("family", few(3, FAMILIES))
def test_logits_are_those_of_the_numbers_that_were_written(family, tmp_path):
    source = build(tmp_path / "source", family, PLAIN[family], 3, **GENTLE)
    facts = FAMILIES[family]
    head = () if facts.base["tie_word_embeddings"] else ("lm_head=8:128",)
    rules = (*head, f"*.{facts.attention_out}=plain", "*.down_proj=5:64")
    settings = Settings(6, 3, 32, rules)
    found = convert(source, tmp_path / "found", settings, threads=3)
    worst, mean = goldens.TOLERANCE[family]
    difference = np.abs(logits(found) - Reference(found).forward(TOKENS).logits)
    assert difference.max() <= worst and difference.mean() <= mean
    packed = pack(found, tmp_path / "packed")
    assert np.array_equal(logits(found), logits(packed))


LATENT = {"deepseek2", "mistral4"}  # of stacks, which conversions refuse: test_latent.py


@pytest.mark.parametrize("family", few(3, [f for f, a in gguf_twin.ARCHS.items()
                                           if a not in LATENT]))  # fmt: skip
def test_a_gguf_file_becomes_what_its_numbers_would(family, tmp_path):
    """Of blocks of many kinds, decoded by `gguf`: the same bytes."""
    options = GENTLE | ({"swiglu_limit": 7.0} if family == "gpt_oss" else {})
    path, twin = gguf_twin.make(tmp_path, family, gguf_twin.mixed, **options)
    settings = {"experts_bits": 5, "group": 32}
    found = convert(path, tmp_path / "found", Settings(**settings))
    other = convert(twin, tmp_path / "other", Settings(**settings, dtype="bfloat16"))
    ours, theirs = tensors.of(found), tensors.of(other)
    # One has -exp(A_log); of Qwen3.5 value heads are in another order.
    left_out = ".linear_attn." if family == "qwen3_5_moe" else ".A_log"
    different = [name for name in tensors.differing(ours, theirs) if left_out not in name]
    assert all(numbers_of(ours[name]) == numbers_of(theirs[name]) for name in different)
    assert all(not name.endswith((".scales", ".biases")) for name in different)
    model = moeflux.load(found, **ROOM)
    assert model.tokenizer.encode("abc<|im_end|>") == [97, 98, 99, 256]
    assert model.tokenizer.chat_template and model.tokenizer.eos_ids == {256}
    difference = np.abs(logits(found) - logits(other))
    worst, mean = goldens.TOLERANCE[family]
    assert difference.max() <= worst and difference.mean() <= mean


def numbers_of(tensor):
    """In float32, whatever the dtype: 16 bits are used where they hold the same."""
    dtype, shape, data = tensor
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    stored = Stored(dtype, np.frombuffer(data, kinds[dtype]).reshape(shape))
    return shape, safetensors_file.decode(stored).astype("<f4").tobytes()


def test_affine_codes_are_made_anew_where_others_are_wanted_and_kept_else(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "mlx-q8", 3)
    kept = convert(source, tmp_path / "kept", Settings(8))
    assert tensors.differing(tensors.of(kept), tensors.of(source)) == []
    found = tensors.of(convert(source, tmp_path / "found", Settings(3, group=32)))
    stored = {name: value for file in source.glob("*.safetensors")
              for name, value in safetensors_file.read(file).items()}  # fmt: skip
    for name in ("lm_head", "model.layers.1.mlp.switch_mlp.up_proj"):
        scales, biases = (safetensors_file.decode(stored[f"{name}.{part}"])
                          for part in ("scales", "biases"))  # fmt: skip
        codes = affine.unpack_codes(stored[f"{name}.weight"].data, 8)
        groups = codes.reshape(*scales.shape, -1).astype(np.float32)
        numbers = groups * scales[..., None] + biases[..., None]
        words, *_ = affine.quantize(numbers.reshape(codes.shape), 3, 32)
        assert found[f"{name}.weight"][2] == words.tobytes()
    router = "model.layers.0.mlp.gate.weight"
    assert found[router] == tensors.of(source)[router]


def test_parts_of_groups_keep_codes_and_numbers(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "mlx-q4-g128", 3, moe_intermediate_size=128)
    found = convert(source, tmp_path / "found", Settings(4, group=32))
    ours, theirs = Checkpoint(found), Checkpoint(source)
    matrices = [name for name in theirs.stored if theirs.stored[name].dtype == "U32"]
    assert len(matrices) > 20
    for name in matrices:
        assert np.array_equal(ours.full(name), theirs.full(name)), name


def test_a_packed_source_gives_the_same_bytes(tmp_path):
    source = build(tmp_path / "source", "qwen3_next", "hf-bf16", 3)
    found = convert(pack(source, tmp_path / "packed"), tmp_path / "found")
    expected = convert(source, tmp_path / "expected")
    assert tensors.differing(tensors.of(found), tensors.of(expected)) == []


def test_columns_that_are_no_whole_groups_stay_plain(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3, moe_intermediate_size=96)
    expected = build(tmp_path / "expected", "qwen3_moe", "mlx-q4-odd", 3)
    found = convert(source, tmp_path / "found", Settings(rules=GATES["qwen3_moe"]))
    assert tensors.differing(tensors.of(found), tensors.of(expected)) == []
    with pytest.raises(moeflux.FormatError, match=r"down_proj=4.* groups of 64, found 96 of model"):
        convert(source, tmp_path / "other", Settings(rules=("down_proj=4",)))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("pieces", [1, 64, 1000])
@pytest.mark.parametrize("threads", [1, 5])
def test_neither_pieces_nor_threads_nor_files_change_a_bit(tmp_path, monkeypatch, pieces, threads):
    from moeflux.converting import rows

    source = build(tmp_path / "source", "qwen3_5_moe", "hf-bf16", 3, num_hidden_layers=2,
                   layer_types=["linear_attention", "full_attention"], num_experts=6)  # fmt: skip
    expected = tensors.of(convert(source, tmp_path / "expected"))
    monkeypatch.setattr(rows, "PIECE", pieces * 128)
    monkeypatch.setattr(converting, "SHARD_BYTES", 20_000)
    found = convert(source, tmp_path / "found", threads=threads)
    assert tensors.differing(tensors.of(found), expected) == []
    files = sorted(path.name for path in found.glob("*.safetensors"))
    assert len(files) > 5 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"


def test_it_is_told_how_large_the_result_is_and_what_stays_plain(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3, moe_intermediate_size=96)
    told = []
    found = convert(source, tmp_path / "found", tell=told.append)
    stored = {name: value for file in found.glob("*.safetensors")
              for name, value in safetensors_file.read(file).items()}  # fmt: skip
    nbytes = sum(value.data.nbytes for value in stored.values())
    numbers = sum(value.data.size * (8 if value.dtype == "U32" else 1)
                  for name, value in stored.items()
                  if not name.endswith((".scales", ".biases")))  # fmt: skip
    assert told[0] == f"{nbytes / 1e9:.2f} GB, {8 * nbytes / numbers:.2f} bits a number"
    n_layers = config_of(source)["num_hidden_layers"]
    assert f"switch_mlp.down_proj and {n_layers - 1} more;" in told[1] and len(told) == 2
