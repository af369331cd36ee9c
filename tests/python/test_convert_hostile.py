"""Sources and disks that are wrong end a conversion with an error that says where."""

import json
import os
import random
import shutil

import pytest

import moeflux
from moeflux import converting
from moeflux.converting import Settings, config, convert
from moeflux.packing import read_back
from oracle import build, safetensors_file
from oracle.safetensors_file import Stored
from support import disks, gguf_twin
from support.folders import config_of

ROOM = {"memory": "256MiB", "context": 64}


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


def test_a_disk_that_does_not_keep_what_was_written_is_noticed(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    disks.spoil(monkeypatch, ".safetensors.part")
    with pytest.raises(moeflux.IoError, match=r"did not keep.*safetensors\.part"):
        convert(source, tmp_path / "found")
    assert not list((tmp_path / "found").glob("*.safetensors"))


def test_what_would_not_load_is_refused_before_the_work(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    original = config.of_source

    def without(*args):
        found = original(*args)
        del found["num_hidden_layers"]
        return found

    monkeypatch.setattr(config, "of_source", without)
    with pytest.raises(moeflux.FormatError, match="num_hidden_layers"):
        convert(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_disk_that_cannot_be_read_back_is_convert_s_error(tmp_path, monkeypatch):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    monkeypatch.setattr(os, "preadv", lambda *args: 0)
    with pytest.raises(moeflux.IoError, match=r"^\[convert\] .*ended early"):
        next(read_back.checksums(source / "config.json", 0, [9], lambda _: None, "convert"))
    monkeypatch.undo()
    original = os.open

    def gone(path, flags, *args):
        if str(path).endswith(".safetensors.part") and not flags & os.O_CREAT:
            raise OSError(5, "Input/output error")
        return original(path, flags, *args)

    monkeypatch.setattr(os, "open", gone)
    with pytest.raises(moeflux.IoError, match=r"^\[convert\] cannot open.*part"):
        convert(source, tmp_path / "target")
