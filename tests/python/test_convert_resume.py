"""A conversion or a pack goes on with what it was begun with, and reads what is there."""

import json
import shutil
import zlib

import pytest

import moeflux
from moeflux import converting
from moeflux.converting import Settings, convert
from moeflux.packing import pack, read_back
from oracle import build

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
    np = pytest.importorskip("numpy")
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
