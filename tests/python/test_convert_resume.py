"""A conversion or a pack goes on with what it was begun with, and reads what is there."""

import json
import os
import shutil
import zlib

import pytest

import moeflux
from moeflux import converting, durable
from moeflux.converting import Settings, convert, shards
from moeflux.packing import beside, pack, read_back
from moeflux.synth import Recipe, synthesize
from oracle import build
from support import kill
from support.commands import run_moeflux
from support.folders import digest

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


def test_a_finished_pack_that_is_damaged_is_noticed(tmp_path):
    target = pack(build(tmp_path / "source", "qwen3_moe", "mlx-q4", 3), tmp_path / "target")
    for name in ("dense.safetensors", "experts-00001.safetensors"):
        file = target / name
        whole = file.read_bytes()
        data = bytearray(whole)
        data[-30000] ^= 4
        file.write_bytes(data)
        with pytest.raises(moeflux.FormatError, match=f"checksum of piece .*{name}"):
            pack(tmp_path / "source", target)
        file.write_bytes(whole)
    assert pack(tmp_path / "source", target) == target


@pytest.mark.parametrize("value", [3, {}, {"model.safetensors": 7}])
def test_a_note_whose_checksums_are_none_is_refused(value, tmp_path):
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    target = convert(source, tmp_path / "target")
    note = json.loads((target / "convert.json").read_text()) | {"crc32": value}
    (target / "convert.json").write_text(json.dumps(note))
    with pytest.raises(moeflux.FormatError, match=r"\[convert\] expected a.*(crc32|checksum)"):
        convert(source, target)


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
    assert moeflux.load(convert(source, tmp_path / "found"), memory="256MiB", context=64)


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


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    source = synthesize(tmp_path / "source", Recipe("small", 6, ("num_experts=64",)))

    def command(name, seconds=300):
        return run_moeflux("convert", source, tmp_path / name, "--bits", 3, seconds=seconds,
                           put={"moeflux.converting.SHARD_BYTES": 500_000})  # fmt: skip

    assert command("whole").returncode == 0
    expected, before = digest(tmp_path / "whole"), digest(source)
    kill.until_done(
        lambda seconds: command("killed", seconds),
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
    monkeypatch.setattr(converting, "SHARD_BYTES", 300_000)
    source = build(tmp_path / "source", "qwen3_moe", "hf-bf16", 3)
    expected = digest(convert(source, tmp_path / "whole"))
    runs = kill.after_each(lambda: convert(source, tmp_path / "found"), monkeypatch, [holder], name)
    assert runs > 1
    assert digest(tmp_path / "found") == expected
