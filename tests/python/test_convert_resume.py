"""A conversion or a pack goes on with what it was begun with, and reads what is there."""

import json
import os
import shutil
import zlib

import numpy as np
import pytest

import moeflux
from moeflux import converting
from moeflux.converting import Settings, config, convert
from moeflux.packing import pack, read_back
from oracle import build
from support import tensors

RUNS = {"convert": convert, "pack": pack}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("command", RUNS)
def test_a_source_of_other_weights_is_refused(command, tmp_path):
    """As a model that was trained further: its shapes, names and sizes are the same."""
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    other = build(tmp_path / "other", "qwen3_moe", "hf-bf16", 4)
    sizes = [{path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
             for folder in (source, other)]  # fmt: skip
    assert sizes[0] == sizes[1]
    target = RUNS[command](source, tmp_path / "target")
    before = files_of(target)
    with pytest.raises(moeflux.FormatError, match=r"holds another .*: expected weights"):
        RUNS[command](other, target)
    assert files_of(target) == before
    shutil.copytree(source, tmp_path / "moved")  # another place, and another time
    assert RUNS[command](tmp_path / "moved", target) == target


@pytest.mark.parametrize("command", RUNS)
def test_a_whole_target_is_left_as_it_is(command, tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target = RUNS[command](source, tmp_path / "target")
    (target / "tokenizer_config.json").write_text('{"mine": 1}')
    config = json.loads((target / "config.json").read_text()) | {"rope_theta": 5000.0}
    (target / "config.json").write_text(json.dumps(config))
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.iterdir()}
    RUNS[command](source, target)
    assert before == {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.iterdir()
    }


@pytest.mark.parametrize("command", RUNS)
def test_notes_of_the_source_s_weights_stay_there(command, tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    ours = {"pytorch_model.bin.index.json", "quantize_config.json", "quant_config.json",
            "hf_quant_config.json"}  # fmt: skip
    for name in ours:
        (source / name).write_text("{}")
    (source / "added_tokens.json").write_text("{}")
    found = {path.name for path in RUNS[command](source, tmp_path / "target").iterdir()}
    assert not ours & found and "added_tokens.json" in found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 4.0}, r"--bits: expected .*found 4\.0"),
        ({"experts_bits": 4.0}, r"--experts-bits: expected .*found 4\.0"),
        ({"group": 64.0}, r"--group-size: expected .*found 64\.0"),
        ({"bits": [4]}, r"--bits: expected .*found \[4\]"),
        ({"dtype": ["float16"]}, r"--dtype: expected .*found \['float16'\]"),
        ({"rules": (3,)}, "--rule: expected PATTERN=BITS, .*found 3"),
        ({"rules": "lm_head=4"}, "rules: expected texts, found 'lm_head=4'"),
        ({"rules": None}, "rules: expected texts, found None"),
    ],
)
def test_settings_of_other_types_are_refused_by_name(settings, words):
    with pytest.raises(moeflux.FormatError, match=words):
        Settings(**settings)


def test_settings_of_other_forms_are_the_same():
    found = Settings(np.int64(3), np.int64(5), np.int64(32), ["lm_head=4"])
    assert json.loads(json.dumps(found.note())) == Settings(3, 5, 32, ("lm_head=4",)).note()


def test_arguments_are_refused_by_name(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    for args, words in (
        ((3, "target"), "source: expected a path, found 3"),
        ((source, None), "target: expected a path, found None"),
        ((source, tmp_path / "a", 4), "settings: expected .*Settings, found 4"),
    ):
        with pytest.raises(moeflux.FormatError, match=words):
            convert(*args)
    found = convert(str(source), str(tmp_path / "found"))
    assert found == tmp_path / "found"


def test_a_finished_file_that_is_damaged_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "SHARD_BYTES", 300_000)
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target = convert(source, tmp_path / "target")
    expected = files_of(target)
    first = sorted(target.glob("model-*.safetensors"))[1]
    data = bytearray(first.read_bytes())
    data[-1000] ^= 4
    first.write_bytes(data)
    crc = f"{zlib.crc32(expected[first.name]):08x}"
    with pytest.raises(moeflux.FormatError, match=rf"checksum '{crc}', found .*{first.name}"):
        convert(source, target)
    first.unlink()
    convert(source, target)
    assert files_of(target) == expected


def test_what_is_called_verified_has_been_read(tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "SHARD_BYTES", 300_000)
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target, said, read = tmp_path / "target", {}, []
    original = read_back._fill

    def fill(descriptor, offset, out, nbytes, *others):
        read.append(nbytes)
        original(descriptor, offset, out, nbytes, *others)

    def progress(what, total):
        said[what] = 0

        def report(nbytes):
            said[what] += nbytes

        return report

    monkeypatch.setattr(read_back, "_fill", fill)
    for _ in range(2):
        read.clear()
        convert(source, target, progress=progress)
        nbytes = sum(path.stat().st_size for path in target.glob("*.safetensors"))
        assert said["verified"] == sum(read) == nbytes


@pytest.mark.parametrize("value", [3, {}, {"model.safetensors": 7}])
def test_a_note_whose_checksums_are_none_is_refused(value, tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target = convert(source, tmp_path / "target")
    note = json.loads((target / "convert.json").read_text()) | {"crc32": value}
    (target / "convert.json").write_text(json.dumps(note))
    with pytest.raises(moeflux.FormatError, match=r"\[convert\] expected a.*(crc32|checksum)"):
        convert(source, target)


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


def test_a_wanted_dtype_counts_where_codes_are_kept(tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "mlx-q4", 3)
    target = convert(source, tmp_path / "target", Settings(4, dtype="float32"))
    ours, theirs = tensors.of(target), tensors.of(source)
    matrices = [name for name, (dtype, *_) in theirs.items() if dtype == "U32"]
    assert len(matrices) > 20
    for name in matrices:
        assert ours[name] == theirs[name] or ".gate." in name
        for part in ("scales", "biases"):
            other = name.removesuffix("weight") + part
            wide, narrow = ours[other], theirs[other]
            assert (wide[0], narrow[0]) == ("F32", "BF16")
            words = np.frombuffer(narrow[2], "<u2").astype("<u4") << 16
            assert np.frombuffer(wide[2], "<u4").tolist() == words.tolist()
