"""`convert` writes what MLX's own converter would, of every source, whatever stops it."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

import moeflux
from moeflux import converting, durable
from moeflux.converting import Settings, convert, shards
from moeflux.packing import beside, pack, read_back
from moeflux.synth import Recipe, synthesize
from oracle import Reference, affine, build, goldens, safetensors_file
from oracle.checkpoint import Checkpoint
from oracle.families import FAMILIES
from oracle.safetensors_file import Stored
from support import gguf_twin, kill, tensors

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
    "gpt_oss": ("router=4",),
}


def logits(folder):
    return moeflux.load(folder, **ROOM).session().step(TOKENS, all_logits=True)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


SHAPES = [
    *((family, {}) for family in FAMILIES),
    ("qwen3_moe", {"tie_word_embeddings": True}),
    ("qwen3_moe", {"mlp_only_layers": [1]}),
    ("qwen3_moe", {"attention_bias": True, "head_dim": 64}),
    ("qwen3_next", {"mlp_only_layers": [0], "attention_bias": True}),
]


@pytest.mark.parametrize(("family", "shape"), SHAPES, ids=str)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_numbers_that_were_written(family, tmp_path):
    source = build(tmp_path / "source", family, PLAIN[family], 3, **GENTLE)
    settings = Settings(6, 3, 32, ("lm_head=8:128", "*.o_proj=plain", "*.down_proj=5:64"))
    found = convert(source, tmp_path / "found", settings, threads=3)
    worst, mean = goldens.TOLERANCE[family]
    difference = np.abs(logits(found) - Reference(found).forward(TOKENS).logits)
    assert difference.max() <= worst and difference.mean() <= mean
    packed = pack(found, tmp_path / "packed")
    assert np.array_equal(logits(found), logits(packed))


@pytest.mark.parametrize("family", gguf_twin.ARCHS)
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 7}, "--bits: expected 2, 3, 4, 5, 6 or 8, found 7"),
        ({"experts_bits": 1}, "--experts-bits: expected 2, 3, 4, 5, 6 or 8, found 1"),
        ({"group": 16}, "--group-size: expected 32, 64 or 128, found 16"),
        ({"dtype": "float8"}, "--dtype: expected float32, float16 or bfloat16, found 'float8'"),
        ({"rules": ("lm_head",)}, "PATTERN=BITS, .*found 'lm_head'"),
        ({"rules": ("lm_head=9",)}, "rule lm_head=9: expected 2, 3"),
        ({"rules": ("lm_head=4:48",)}, "rule lm_head=4:48: expected 32, 64 or 128, found 48"),
        ({"rules": ("lm_head=four",)}, "PATTERN=BITS"),
    ],
)
def test_settings_that_are_none_are_refused_by_name(settings, words):
    with pytest.raises(moeflux.FormatError, match=words):
        Settings(**settings)


def test_of_several_rules_the_last_one_counts_and_none_is_for_nothing(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    rules = ("*=3", "*.mlp.*=5:32", "layers.1.mlp.switch_mlp.up_proj=plain")
    found = convert(source, tmp_path / "found", Settings(rules=rules))
    said = config_of(found)["quantization"]
    assert said["lm_head"] == {"group_size": 64, "bits": 3}
    assert said["model.layers.0.mlp.gate"] == {"group_size": 32, "bits": 5}
    assert said["model.layers.1.mlp.switch_mlp.down_proj"] == {"group_size": 32, "bits": 5}
    assert "model.layers.1.mlp.switch_mlp.up_proj" not in said
    assert moeflux.load(found, **ROOM)
    with pytest.raises(moeflux.FormatError, match=r"pattern of names.*found 'lm_haed=6'"):
        convert(source, tmp_path / "other", Settings(rules=("lm_haed=6",)))
    assert not (tmp_path / "other").exists()


def change(folder, name, edit):
    """Lets `edit` change the bytes of a tensor."""
    for file in folder.glob("*.safetensors"):
        stored = safetensors_file.read(file)
        if name in stored:
            data = stored[name].data.copy()
            edit(data)
            stored[name] = Stored(stored[name].dtype, data)
            safetensors_file.write(file, stored, "hf")
            return file
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.experts.3.down_proj.weight", "model.embed_tokens.weight",
     "model.layers.0.mlp.gate.weight", "model.norm.weight"],
)  # fmt: skip
@pytest.mark.parametrize(("bits", "word"), [(0x7FC0, "nan"), (0xFF80, "-inf")])
def test_what_is_no_number_is_refused_by_tensor_and_file(name, bits, word, tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)

    def spoil(data):
        data.reshape(-1)[-3] = bits

    file = change(source, name, spoil)
    with pytest.raises(moeflux.FormatError) as caught:
        convert(source, tmp_path / "found")
    message = str(caught.value)
    assert f"found {word} in model." in message and file.name in message
    assert not (tmp_path / "found" / "config.json").exists()
    with pytest.raises(moeflux.FormatError, match="unfinished one: run the same `moeflux convert"):
        moeflux.load(tmp_path / "found", **ROOM)


def test_numbers_that_float16_has_not_are_refused(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)

    def enlarge(data):
        data[0, 0] = 0x4780  # 65536

    change(source, "lm_head.weight", enlarge)
    with pytest.raises(moeflux.FormatError, match=r"F16 holds, found .*65536.* in lm_head"):
        convert(source, tmp_path / "found", Settings(dtype="float16"))


def truncate(folder):
    os.truncate(folder / "model-00002-of-00002.safetensors", 50_000)


def reshape(folder):
    config = config_of(folder) | {"moe_intermediate_size": 32}
    (folder / "config.json").write_text(json.dumps(config))


def as_other(folder):
    config = config_of(folder) | {"quantization_config": {"quant_method": "hqq"}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncate, r"end within the file's 50000 bytes.*model-00002-of-00002"),
        (reshape, r"expected .*\[32, 128\].*found .*\[64, 128\].*safetensors"),
        (as_other, r"found quant_method 'hqq'.*config\.json"),
        (lambda folder: (folder / "model-00001-of-00002.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "config.json").write_text("[1]"), r"JSON object.*config\.json"),
    ],
)
def test_hostile_sources_are_refused_before_anything_is_written(spoil, words, tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    spoil(source)
    with pytest.raises(moeflux.MoefluxError, match=words):
        convert(source, tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_random_damage_never_escapes_as_another_error(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3, num_hidden_layers=1,
                   num_experts=4, shards=1)  # fmt: skip
    file = source / "model.safetensors"
    whole, numbers, errors = file.read_bytes(), random.Random(1), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(120):
        changed = bytearray(whole)
        for _ in range(numbers.choice([1, 1, 2, 8, 50])):
            changed[numbers.randrange(numbers.choice([header, len(whole)]))] ^= (
                1 << numbers.randrange(8)
            )
        file.write_bytes(changed)
        try:
            convert(source, tmp_path / "found")
        except moeflux.MoefluxError:
            errors += 1
        shutil.rmtree(tmp_path / "found", ignore_errors=True)
    assert 30 < errors < 120


def test_a_source_that_shrinks_meanwhile_is_an_error_that_names_it(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    original = converting.claim

    def shrink(*args):
        original(*args)
        truncate(source)

    monkeypatch.setattr(converting, "claim", shrink)
    with pytest.raises(moeflux.IoError, match=r"^\[convert\] file ended early.*model-00002"):
        convert(source, tmp_path / "found")


def test_a_gguf_file_without_a_known_tokenizer_is_refused_before_the_work(tmp_path):
    path, _ = gguf_twin.make(tmp_path, "qwen3_moe", "Q8_0")
    data = path.read_bytes()
    assert data.count(b"\x05\0\0\0\0\0\0\0qwen2") == 1
    path.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwen9"))
    with pytest.raises(moeflux.FormatError, match="qwen9"):
        convert(path, tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_a_short_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(moeflux.IoError, match=r"\[convert\] the disk is short.*free"):
        convert(source, tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_a_disk_that_fills_up_meanwhile_leaves_what_can_go_on(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    expected = digest(convert(source, tmp_path / "expected"))
    original, calls = os.pwrite, []

    def full(*args):
        calls.append(args)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "pwrite", full)
        with pytest.raises(moeflux.IoError, match=r"\[convert\] No space left on device"):
            convert(source, tmp_path / "found")
    assert digest(convert(source, tmp_path / "found")) == expected


def test_a_disk_that_does_not_keep_what_was_written_is_noticed(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    original = os.fsync

    def spoil(descriptor):
        original(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith(".safetensors.part"):
            with open(path, "rb+") as stream:
                stream.seek(-20000, os.SEEK_END)
                stream.write(b"\x55" * 100)

    monkeypatch.setattr(shards.os, "fsync", spoil)
    with pytest.raises(moeflux.IoError, match=r"did not keep.*safetensors\.part"):
        convert(source, tmp_path / "found")
    assert not list((tmp_path / "found").glob("*.safetensors"))


def test_folders_of_others_other_settings_and_other_sources_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "SHARD_BYTES", 300_000)
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for folder in (tmp_path / "notes", source):
        before = digest(folder)
        with pytest.raises(moeflux.FormatError, match="new or empty folder"):
            convert(source, folder)
        assert digest(folder) == before
    found = convert(source, tmp_path / "found")
    with pytest.raises(moeflux.FormatError, match="another conversion: expected bits 3, found 4"):
        convert(source, found, Settings(3))
    with pytest.raises(moeflux.FormatError, match="another conversion: expected config_sha256"):
        convert(found, found)
    first, second, *_ = sorted(found.glob("model-*.safetensors"))
    shutil.copy(first, second)
    with pytest.raises(moeflux.FormatError, match=r"this conversion.*model-00002"):
        convert(source, found)


def test_two_runs_in_one_folder_are_one_too_many(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)

    def again(*args):
        convert(source, tmp_path / "found")

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", again)
        with pytest.raises(moeflux.IoError, match="expected no other run in the folder"):
            convert(source, tmp_path / "found")
    assert logits(convert(source, tmp_path / "found")).any()


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


def test_files_that_are_there_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "SHARD_BYTES", 300_000)
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    found = convert(source, tmp_path / "found")
    before = {path.name: path.stat().st_mtime_ns for path in found.glob("*.safetensors")}
    removed = sorted(before)[2]
    (found / removed).unlink()
    convert(source, found)
    after = {path.name: path.stat().st_mtime_ns for path in found.glob("*.safetensors")}
    assert {name for name in before if after[name] != before[name]} == {removed}


KILLS = int(os.environ.get("MOEFLUX_KILLS", "6"))  # more of them in .ci/full


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    source = synthesize(tmp_path / "source", Recipe("small", 6, ("num_experts=64",)))
    code = (
        "import sys, moeflux.cli as cli, moeflux.converting as converting;"
        "converting.SHARD_BYTES = 500_000;"
        "sys.argv[1:] = ['convert', *sys.argv[1:], '--bits', '3']; cli.main()"
    )
    command = [sys.executable, "-c", code, str(source)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    expected, before = digest(tmp_path / "whole"), digest(source)
    kill.until_done(
        [*command, str(tmp_path / "killed")],
        kills=KILLS,
        seed=2,
        start_over=lambda: shutil.rmtree(tmp_path / "killed"),
    )
    found = digest(tmp_path / "killed")
    assert {name: found[name] for name in expected} == expected
    assert all(name.endswith(".part") for name in found.keys() - expected.keys())
    assert digest(source) == before


@pytest.mark.parametrize(
    ("holder", "name"),
    [(durable, "publish"), (shards, "publish"), (converting, "claim"), (beside, "write_index"),
     (beside, "copy_small"), (read_back, "checksums"), (converting, "write_json")],
)  # fmt: skip
def test_cut_after_any_step_it_goes_on(tmp_path, monkeypatch, holder, name):
    """The same in process, without luck: an exception after the n-th call of each step."""

    class Cut(BaseException):
        pass

    monkeypatch.setattr(converting, "SHARD_BYTES", 300_000)
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    expected = digest(convert(source, tmp_path / "whole"))
    original = getattr(holder, name)
    for cut_at in range(1, 40):
        calls = 0

        def cut(*args, _at=cut_at, **kwargs):
            nonlocal calls
            result = original(*args, **kwargs)
            calls += 1
            if calls == _at:
                raise Cut
            return result

        with monkeypatch.context() as patch:
            patch.setattr(holder, name, cut)
            try:
                convert(source, tmp_path / "found")
            except Cut:
                continue
        break
    assert cut_at > 1
    assert digest(tmp_path / "found") == expected


def run(*args, **options):
    command = [sys.executable, "-m", "moeflux.cli", "convert", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60,
                          env=os.environ | {"COLUMNS": "80"}, **options)  # fmt: skip


def test_the_command_converts_and_says_where(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target = tmp_path / "found"
    done = run(source, target, "--bits", 6, "--experts-bits", 3, "--group-size", 32,
               "--rule", "lm_head=8:64", "--rule", "o_proj=plain", "--threads", 2)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
    assert "converted" in done.stderr and "verified" in done.stderr
    assert "bits a number]" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 78
    settings = Settings(6, 3, 32, ("lm_head=8:64", "o_proj=plain"))
    expected = digest(convert(source, tmp_path / "expected", settings))
    assert digest(target) == expected
    for args in ([source, source], [tmp_path, target], [source, target, "--bits", 7],
                 [source, target, "--threads", 0]):  # fmt: skip
        done = run(*args)
        assert done.returncode == 1 and done.stderr.startswith("moeflux: ")
        assert done.stderr.count("\n") == 1


def test_interrupted_by_hand_it_says_how_to_go_on(tmp_path):
    source = synthesize(tmp_path / "source", Recipe("small", 8, ("num_experts=64",)))
    code = (
        "import sys, signal, os, moeflux.cli as cli;"
        "from moeflux.packing import read_back; original = read_back.checksums;"
        "read_back.checksums = lambda *a: (os.kill(os.getpid(), signal.SIGINT), original(*a))[1];"
        "sys.argv[1:] = ['convert', *sys.argv[1:], '--bits', '3']; cli.main()"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "goes on from here" in done.stderr and "Traceback" not in done.stderr
    assert run(source, tmp_path / "found", "--bits", 3).returncode == 0
