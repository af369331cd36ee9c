"""`pack --replace` frees its source: what it must not empty, and how much room it needs."""

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux import holes, packing
from moeflux.lookalikes import REPLACED_NAME
from moeflux.packing import pack, pieces, punch
from moeflux.synth import Recipe, synthesize

SPARE = 64 << 20
RECIPE = Recipe("small", 4, ("num_experts=64",))


class Cut(BaseException):
    """Stands for kill -9."""


def logits(folder):
    model = moeflux.load(folder, memory="128MiB", context=64)
    return model.session().step([1, 2, 3])


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def size(folder):
    return sum(path.stat().st_size for path in shards(folder))


def freed(folder):
    return any(path.stat().st_blocks * 512 < path.stat().st_size for path in shards(folder))


@pytest.fixture
def source(tmp_path):
    return synthesize(tmp_path / "m", RECIPE)


def hard_links(source, other):
    shutil.copytree(source, other, copy_function=os.link)
    return source


def two_snapshots(source, other):
    """As the hub's cache has it: two commits, and one blob for what both have."""
    blobs = source.with_name("blobs")
    source.rename(blobs)
    source.mkdir()
    other.mkdir()
    for blob in blobs.iterdir():
        for snapshot in (source, other):
            (snapshot / blob.name).symlink_to(Path("..", "blobs", blob.name))
    return source


@pytest.mark.parametrize("share", [hard_links, two_snapshots])
def test_files_that_other_folders_use_are_not_emptied(source, tmp_path, share):
    share(source, tmp_path / "other")
    expected = logits(tmp_path / "other")
    with pytest.raises(moeflux.FormatError, match=r"no other folder uses.*m/model-.*safetensors"):
        pack(source, tmp_path / "packed", replace=True)
    assert not (tmp_path / "packed").exists() and not (source / REPLACED_NAME).exists()
    assert np.array_equal(logits(tmp_path / "other"), expected)
    pack(source, tmp_path / "packed")
    assert np.array_equal(logits(tmp_path / "packed"), expected)


def test_links_within_a_folder_and_to_a_folder_are_its_own(source, tmp_path):
    (file,) = shards(source)
    file.rename(source / "weights")
    file.symlink_to("weights")
    (tmp_path / "link").symlink_to(source)
    pack(tmp_path / "link", tmp_path / "packed", replace=True)
    assert freed(source) and not freed(tmp_path / "packed")


def empty(folder, monkeypatch, **options):
    """What another program, or an earlier version of this one, does to files of two names."""
    with monkeypatch.context() as patch:
        patch.setattr(punch, "require_unshared", lambda *_: None)
        pack(folder, folder.with_name("elsewhere"), replace=True, **options)


@pytest.mark.parametrize("form", ["in place", "packed", "16 bits"])
def test_a_checkpoint_whose_weights_are_holes_is_refused(source, tmp_path, monkeypatch, form):
    if form == "packed":
        source = pack(source, tmp_path / "p")
    if form == "16 bits":
        from oracle import build

        source = build(tmp_path / "b", family="qwen3_moe", form="hf-bf16", vocab_size=4096)
    hard_links(source, tmp_path / "other")
    empty(source, monkeypatch)
    for use in (moeflux.load, lambda folder: pack(folder, tmp_path / "again")):
        with pytest.raises(moeflux.FormatError, match=r"found a hole.*other/.*safetensors"):
            use(tmp_path / "other")
    assert not (tmp_path / "again").exists()


def test_one_freed_layer_is_enough(source, tmp_path, monkeypatch):
    hard_links(source, tmp_path / "other")
    free, calls = punch.free, []

    def second_only(files, ranges):
        calls.append(1)
        if len(calls) == 2:
            free(files, ranges)

    monkeypatch.setattr(punch, "free", second_only)
    empty(source, monkeypatch)
    with pytest.raises(moeflux.FormatError, match=r"tensor 'model.layers.0.*scales', found a hole"):
        moeflux.load(tmp_path / "other")


def test_zeros_that_weights_may_hold_may_be_holes(source):
    """Codes, biases, vectors, and a part of the scales of a stack."""
    from moeflux.checkpoint import open_checkpoint

    before = logits(source)
    checkpoint = open_checkpoint(source)
    for name, tensor in checkpoint.tensors.items():
        scales = name.endswith(".switch_mlp.up_proj.scales")
        if scales or (name.endswith((".weight", ".biases")) and tensor.dtype in ("U32", "BF16")):
            nbytes = tensor.nbytes // 2 if scales else tensor.nbytes
            punch.free(list(checkpoint.files), [packing.Range(tensor.file, tensor.offset, nbytes)])
    assert freed(source) and not np.array_equal(logits(source), before)


def test_a_record_of_a_packed_layer_may_be_a_hole(tmp_path):
    """An expert of zeros; all of a layer's would be refused."""
    from moeflux.checkpoint import open_checkpoint
    from oracle import build

    source = build(tmp_path / "m", family="qwen3_moe", form="hf-bf16", num_hidden_layers=2,
                   hidden_size=256, moe_intermediate_size=256)  # fmt: skip
    target = pack(source, tmp_path / "packed")
    checkpoint = open_checkpoint(target)
    stack = next(t for t in checkpoint.tensors.values() if t.stride)
    punch.free(list(checkpoint.files), [packing.Range(stack.file, stack.offset, stack.stride)])
    assert freed(target) and logits(target).any()


def test_a_download_that_reserved_its_room_and_broke_off_is_refused(source):
    """Nothing but a hole from some byte to the file's end."""
    (file,) = shards(source)
    whole = file.stat().st_size
    os.truncate(file, whole // 3)
    os.truncate(file, whole)
    with pytest.raises(moeflux.FormatError, match=r"found a hole.*safetensors"):
        moeflux.load(source)


@pytest.mark.parametrize("missing", ["_SEEK_DATA", "_SEEK_HOLE", "lseek"])
def test_without_a_way_to_see_holes_a_checkpoint_loads(source, monkeypatch, missing):
    def refuse(*_):
        raise OSError(22, "Invalid argument")

    if missing == "lseek":
        monkeypatch.setattr(holes, "_SEEK_HOLE", 99)  # as a file system without it answers
        monkeypatch.setattr(os, "lseek", refuse)
    else:
        monkeypatch.setattr(holes, missing, None)
    assert logits(source).any()


def test_the_marker_is_there_before_anything_is_freed(source, tmp_path, monkeypatch):
    def cut(files, ranges):
        assert (source / REPLACED_NAME).exists()
        raise Cut

    monkeypatch.setattr(punch, "free", cut)
    with pytest.raises(Cut):
        pack(source, tmp_path / "packed", replace=True)


def test_files_of_an_earlier_run_are_read_again_before_the_source_is_freed(source, tmp_path):
    target = pack(source, tmp_path / "packed")
    with (target / "experts-00002.safetensors").open("rb+") as stream:
        stream.seek(-5000, os.SEEK_END)
        stream.write(b"\x55" * 16)
    with pytest.raises(moeflux.FormatError, match=r"checksum.*experts-00002"):
        pack(source, target, replace=True)
    (target / "experts-00002.safetensors").unlink()
    pack(source, target, replace=True)  # what it held was still there
    pieces.verify(target / "experts-00002.safetensors")


def test_what_was_freed_is_not_packed_as_zeros(source, tmp_path):
    target = pack(source, tmp_path / "packed", replace=True)
    (target / "experts-00001.safetensors").unlink()
    with pytest.raises(moeflux.FormatError, match=r"its source is freed.*experts-00001"):
        pack(source, target, replace=True)


def disk(monkeypatch, free):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))


def test_another_file_system_needs_room_for_all(source, tmp_path, monkeypatch):
    assert Path("/dev/shm").stat().st_dev != source.stat().st_dev, "needs two file systems"
    nbytes = size(source)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        disk(monkeypatch, SPARE + nbytes // 2)
        with pytest.raises(moeflux.IoError, match="disk is short"):
            pack(source, Path(elsewhere, "packed"), replace=True)
        assert not Path(elsewhere, "packed").exists() and not freed(source)
        disk(monkeypatch, SPARE + nbytes * 2)
        pack(source, Path(elsewhere, "packed"), replace=True)
    assert freed(source)


@pytest.mark.parametrize("replace", [False, True])
def test_a_part_that_a_killed_run_left_counts_as_room(source, tmp_path, monkeypatch, replace):
    target = tmp_path / "packed"
    publish, calls = pieces.publish, []

    def cut(part, final):
        calls.append(final)
        if len(calls) == 2:
            raise Cut
        publish(part, final)

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "publish", cut)
        with pytest.raises(Cut):
            pack(source, target, replace=replace)
    (part,) = target.glob("*.part")
    left = part.stat().st_blocks * 512
    layers = 1 if replace else 4
    need = layers * part.stat().st_size
    disk(monkeypatch, SPARE + need - left - (1 << 20))
    with pytest.raises(moeflux.IoError, match="disk is short"):
        pack(source, target, replace=replace)
    disk(monkeypatch, SPARE + need * (1 + replace) - left)
    pack(source, target, replace=replace)


def test_a_part_that_a_killed_synth_left_counts_as_room(tmp_path, monkeypatch):
    (file,) = shards(synthesize(tmp_path / "m", RECIPE))
    part = file.with_name(file.name + ".part")
    file.rename(part)
    disk(monkeypatch, SPARE + file.with_name(part.name).stat().st_size // 2)
    synthesize(tmp_path / "m", RECIPE)
    assert file.exists() and not part.exists()


def ask(answer, *args):
    """The command on a terminal on which somebody types `answer`; (exit status, what it showed)."""
    leader, follower = pty.openpty()
    os.write(leader, answer)
    done = subprocess.run([sys.executable, "-m", "moeflux.cli", "pack", *map(str, args)],
                          stdin=follower, capture_output=True, text=True, timeout=120,
                          check=False)  # fmt: skip
    os.close(leader)
    os.close(follower)
    return done.returncode, done.stderr


def test_on_a_terminal_replace_asks_first(source, tmp_path):
    status, shown = ask(b"n\n", source, tmp_path / "packed", "--replace")
    assert status == 1 and "cannot be undone" in shown and str(source) in shown
    assert not (tmp_path / "packed").exists() and not freed(source)
    status, shown = ask(b"y\n", source, tmp_path / "packed", "--replace")
    assert status == 0 and freed(source)


def test_with_yes_or_without_a_terminal_nobody_is_asked(source, tmp_path):
    status, shown = ask(b"", source, tmp_path / "packed", "--replace", "--yes")
    assert status == 0 and "undone" not in shown and freed(source)
