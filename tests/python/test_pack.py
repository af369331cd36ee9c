"""Packed folders: equal logits, one read an expert, killed at any moment, hostile files."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors

import moeflux
from moeflux import packed
from moeflux.checkpoint import open_checkpoint
from moeflux.packing import beside, pack, pieces, punch, read_back, verify
from moeflux.synth import Recipe, synthesize
from oracle import build
from support import disks, kill
from support.commands import run_moeflux

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 40)]
SOURCES = [
    ("qwen3_moe", "mlx-q4", {}),
    ("qwen3_moe", "mlx-q4", {"mlp_only_layers": [1]}),
    ("qwen3_moe", "mlx-q4-odd", {}),
    ("qwen3_moe", "hf-bf16", {}),
    ("qwen3_moe", "hf-f32", {"tie_word_embeddings": True}),
    ("qwen3_next", "mlx-q4", {}),
    ("qwen3_next", "hf-bf16", {"full_attention_interval": 2, "num_hidden_layers": 2}),
    ("qwen3_next", "mlx-q4", {"full_attention_interval": 2, "num_hidden_layers": 2}),
    ("qwen3_5_moe", "hf-bf16", {}),
    ("qwen3_5_moe", "mlx-q8", {}),
]


def run(folder, **options):
    defaults = {"memory": "256MiB", "context": 64, "read_ahead": False}
    model = moeflux.load(folder, **defaults | options)
    session = model.session()
    logits = [
        session.step(TOKENS[:25], all_logits=True),
        session.step(TOKENS[25:], all_logits=True),
    ]
    return np.concatenate(logits), model.stats


@pytest.mark.parametrize("form", ["mlx-q4", "hf-bf16"])
@pytest.mark.parametrize("simd", ["", "portable"])
def test_long_ranges_at_odd_offsets_are_bit_equal_to_records(tmp_path, monkeypatch, form, simd):
    """Long enough to keep their odd places in the slot: kernels meet them at any address."""
    monkeypatch.setenv("MOEFLUX_SIMD", simd)
    shape = {"hidden_size": 512, "moe_intermediate_size": 512, "num_experts": 8,
             "num_experts_per_tok": 2, "num_hidden_layers": 2, "vocab_size": 256}  # fmt: skip
    in_place = build(tmp_path / "m", family="qwen3_moe", form=form, seed=3, **shape)
    for file in in_place.glob("*.safetensors"):
        move_data(file, 13)
    one, stats = run(in_place, max_slots=3)
    buffered, _ = run(in_place, max_slots=3, direct_io=False)
    other, packed_stats = run(pack(in_place, tmp_path / "packed"), max_slots=3)
    assert stats["slot_bytes"] > packed_stats["slot_bytes"]  # pages of their own
    assert np.array_equal(one, other) and np.array_equal(one, buffered)


def move_data(file, nbytes):
    """Lets a file's tensors begin so many bytes later: a longer header."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length] + b" " * nbytes
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build(
        tmp_path_factory.mktemp("source") / "m", family="qwen3_next", form="mlx-q4", seed=7
    )


@pytest.fixture(scope="module")
def target(source, tmp_path_factory):
    return pack(source, tmp_path_factory.mktemp("target") / "m")


@pytest.fixture
def copy(target, tmp_path):
    return shutil.copytree(target, tmp_path / "copy")


@pytest.mark.parametrize(("family", "form", "overrides"), SOURCES, ids=str)
def test_logits_are_bit_equal_to_those_in_place(tmp_path, family, form, overrides):
    in_place = build(tmp_path / "m", family=family, form=form, seed=3, **overrides)
    there = pack(in_place, tmp_path / "packed")
    one, stats = run(in_place, max_slots=4)
    other, packed_stats = run(there, max_slots=4)
    assert np.array_equal(one, other)
    assert packed_stats["misses"] == stats["misses"] > 0
    record = packed_stats["slot_bytes"]
    n_read, rest = divmod(packed_stats["bytes_read"], packed_stats["misses"])
    assert rest == 0 and n_read % 4096 == 0 and 0 <= record - n_read < 16384  # whole pages
    shutil.rmtree(in_place)
    assert np.array_equal(run(there)[0], one)  # self-contained
    assert moeflux.load(there, memory="256MiB", context=64).tokenizer.encode("ab")


def test_packing_a_packed_folder_changes_nothing(target, tmp_path):
    again = pack(target, tmp_path / "again")
    ours = {name: value for name, value in digest(target).items() if name != "pack.json"}
    found = digest(again)
    assert {name: found[name] for name in ours} == ours


def test_the_file_is_what_the_format_says(source, target):
    """Read by hand: a safetensors file, aligned, checksums right, parts where they should be."""
    from oracle import safetensors_file
    from oracle.checkpoint import Checkpoint

    original = Checkpoint(source)
    files = sorted(target.glob("experts-*.safetensors"))
    assert len(files) == original.text["num_hidden_layers"]
    table = open_checkpoint(target)
    for file, least in zip(table.files, table.file_bytes, strict=True):
        assert 0 <= file.stat().st_size - least < 16384
    for number, file in enumerate(files):
        blob = file.read_bytes()
        begin = 8 + int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8:begin])
        metadata = header.pop("__metadata__")
        assert set(header) == {"experts"} and header["experts"]["dtype"] == "U8"
        n_experts, record = header["experts"]["shape"]
        assert begin % 16384 == record % 16384 == 0
        assert len(blob) == begin + n_experts * record
        stored = safetensors_file.read(file)["experts"].data
        digits = "".join(f"{zlib.crc32(stored[e].tobytes()):08x}" for e in range(n_experts))
        assert metadata["crc32"] == digits
        end = 0
        for part in json.loads(metadata["layout"]):
            assert f".layers.{number}." in part["name"] and part["offset"] % 64 == 0
            expected = original.stored[part["name"]].data
            nbytes = expected[0].nbytes
            for expert in (0, n_experts - 1):
                at = part["offset"]
                assert stored[expert, at : at + nbytes].tobytes() == expected[expert].tobytes()
                assert not stored[expert, end:at].any()
            end = part["offset"] + nbytes
        assert not stored[:, end:].any() and record - end < 16384


def test_the_safetensors_library_accepts_the_files(target):
    for file in target.glob("*.safetensors"):
        with safetensors.safe_open(file, "np") as opened:
            assert opened.keys()
            if file.name.startswith("experts-"):
                assert opened.get_tensor("experts").dtype == np.uint8


def test_checksums_are_right_and_a_flipped_bit_is_found(copy):
    verify(copy)
    for file in sorted(copy.glob("*.safetensors")):
        with file.open("rb+") as stream:
            stream.seek(-5000, os.SEEK_END)
            byte = stream.read(1)[0]
            stream.seek(-5000, os.SEEK_END)
            stream.write(bytes([byte ^ 4]))
        with pytest.raises(moeflux.FormatError, match=rf"checksum.*{file.name}"):
            verify(copy)
        with file.open("rb+") as stream:
            stream.seek(-5000, os.SEEK_END)
            stream.write(bytes([byte]))
    verify(copy)


@pytest.mark.parametrize("replace", [False, True])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, replace):
    recipe = Recipe("small", 12, ("num_experts=64",))
    folder = shutil.copytree(synthesize(tmp_path / "source", recipe), tmp_path / "m")
    expected = digest(pack(folder, tmp_path / "whole"))
    logits, _ = run(folder)
    used = sum(path.stat().st_blocks for path in folder.glob("*.safetensors"))
    command = ["pack", folder, tmp_path / "killed", *["--replace"] * replace]

    def start_over():
        shutil.rmtree(tmp_path / "killed")
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "source", folder)

    kill.until_done(
        lambda seconds: run_moeflux(*command, seconds=seconds), seed=replace, start_over=start_over
    )
    found = digest(tmp_path / "killed")
    assert {name: found[name] for name in expected} == expected
    assert all(name.endswith(".part") for name in found.keys() - expected.keys())
    assert np.array_equal(run(tmp_path / "killed")[0], logits)
    if replace:
        left = sum(path.stat().st_blocks for path in folder.glob("*.safetensors"))
        assert left < used / 20
        with pytest.raises(moeflux.FormatError, match="replaced"):
            moeflux.load(folder)
        with pytest.raises(moeflux.FormatError, match="replaced"):
            pack(folder, tmp_path / "another")


def kill_points():
    """Every step after which a run can be cut: by call of the function that makes it last."""
    return ["publish", "free", "require_space", "read_header", "write_json"]


@pytest.mark.parametrize("name", kill_points())
def test_cut_after_any_step_it_goes_on(tmp_path, monkeypatch, name):
    """The same in process, without luck: an exception after the n-th call of each step."""
    from moeflux import durable, packing

    folder = synthesize(tmp_path / "m", Recipe("small", 3))
    expected = digest(pack(folder, tmp_path / "whole"))
    holders = {"publish": [durable, pieces], "free": [punch], "require_space": [packing],
               "read_header": [packing, beside], "write_json": [packing, beside]}[name]  # fmt: skip
    runs = kill.after_each(lambda: pack(folder, tmp_path / "target", replace=True), monkeypatch,
                           holders, name)  # fmt: skip
    assert runs > 1
    assert digest(tmp_path / "target") == expected


def test_a_short_disk_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(moeflux.IoError, match=r"disk is short.*free"):
        pack(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_replacing_needs_room_for_one_layer_only(tmp_path, monkeypatch):
    folder = synthesize(tmp_path / "m", Recipe("small", 8, ("num_experts=256",)))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    usage = shutil.disk_usage(tmp_path)
    free = (64 << 20) + size // 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(moeflux.IoError, match="disk is short"):
        pack(folder, tmp_path / "packed")
    pack(folder, tmp_path / "packed", replace=True)


def test_replace_is_refused_where_holes_are_not_supported(source, tmp_path, monkeypatch):
    def refuse(descriptor, offset, nbytes):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(punch, "_fallocate", refuse)
    with pytest.raises(moeflux.IoError, match="free a part of a file: Operation not supported"):
        pack(source, tmp_path / "m", replace=True)
    assert not (tmp_path / "m").exists()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(moeflux.IoError, match="expected linux, found darwin"):
        pack(source, tmp_path / "m", replace=True)


def test_a_disk_that_does_not_keep_what_was_written_is_noticed(source, tmp_path, monkeypatch):
    disks.spoil(monkeypatch, "experts-00001.safetensors.part")
    with pytest.raises(moeflux.IoError, match="did not keep"):
        pack(source, tmp_path / "m", replace=False)
    assert not (tmp_path / "m" / "experts-00001.safetensors").exists()


def test_folders_of_others_and_other_sources_are_refused(source, target, copy, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(moeflux.FormatError, match="empty folder"):
        pack(source, tmp_path / "notes")
    other = build(tmp_path / "other", family="qwen3_next", form="mlx-q4", seed=8, num_experts=8)
    with pytest.raises(moeflux.FormatError, match="another checkpoint"):
        pack(other, copy)
    shutil.copy(copy / "experts-00000.safetensors", copy / "experts-00001.safetensors")
    with pytest.raises(moeflux.FormatError, match=r"another;.*experts-00001"):
        pack(source, copy)


def test_what_is_not_packed_cannot_be_verified(source):
    with pytest.raises(moeflux.FormatError, match="packed"):
        verify(source)


def rewrite(file, change):
    """Changes a file's header, keeping data where they are (the header is padded)."""
    blob = file.read_bytes()
    begin = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:begin])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= begin - 8
    file.write_bytes(blob[:8] + text.ljust(begin - 8) + blob[begin:])


def edit_layout(edit):
    def change(header):
        layout = json.loads(header["__metadata__"]["layout"])
        layout = edit(layout) or layout
        header["__metadata__"]["layout"] = json.dumps(layout, separators=(",", ":"))

    return change


def edit_metadata(key, value):
    return lambda header: header["__metadata__"].__setitem__(key, value)


def repeat_last(parts):
    """The last part, of 16-bit biases, once more behind itself: most records have room there."""
    end = parts[-1]["offset"] + 2 * int(np.prod(parts[-1]["shape"]))
    return [*parts, parts[-1] | {"offset": end + -end % 64}]


LIES = {
    "version": edit_metadata("version", "2"),
    "layout no json": edit_metadata("layout", "[{"),
    "layout no list": edit_metadata("layout", "{}"),
    "layout empty": edit_metadata("layout", "[]"),
    "part no object": edit_layout(lambda parts: [7]),
    "part without name": edit_layout(lambda parts: parts[0].pop("name") and None),
    "dtype": edit_layout(lambda parts: parts[0].update(dtype="U33")),
    "negative": edit_layout(lambda parts: parts[0].update(offset=-64)),
    "float": edit_layout(lambda parts: parts[0].update(offset=64.0)),
    "huge": edit_layout(lambda parts: parts[0].update(shape=[1 << 39, 1 << 39])),
    "behind the record": edit_layout(lambda parts: parts[-1].update(offset=1 << 30)),
    "overlap": edit_layout(lambda parts: parts[1].update(offset=0)),
    "unaligned": edit_layout(lambda parts: parts[-1].update(offset=parts[-1]["offset"] + 4)),
    "twice": edit_layout(lambda parts: parts[1].update(name=parts[0]["name"])),
    "once more": edit_layout(repeat_last),
    "shape": edit_layout(lambda parts: parts[0].update(shape=[1, 1])),
    "missing part": edit_layout(lambda parts: parts[:-1]),
    "wrong module": edit_layout(lambda parts: parts[0].update(name="model.layers.0.x.weight")),
    "tensor dtype": lambda header: header["experts"].update(
        dtype="I8"
    ),
    "tensor name": lambda header: header.update(other=header.pop("experts")),
    "record": lambda header: header["experts"].update(
        shape=[header["experts"]["shape"][0] * 2, header["experts"]["shape"][1] // 2]
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_lying_layouts_are_errors_that_name_the_file(copy, lie):
    rewrite(copy / "experts-00000.safetensors", LIES[lie])
    with pytest.raises(moeflux.FormatError) as caught:
        moeflux.load(copy, memory="256MiB", context=64)
    assert "experts-00000" in str(caught.value) or "index" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("crc32", "00"), ("crc32", "zz" * 96), ("piece_bytes", "0"), ("piece_bytes", "-1"),
     ("piece_bytes", "100"), ("piece_bytes", "9" * 5000), ("piece_bytes", "")],
)  # fmt: skip
def test_lying_checksums_are_errors(copy, key, value):
    rewrite(copy / "experts-00000.safetensors", edit_metadata(key, value[:2000]))
    with pytest.raises(moeflux.FormatError, match="experts-00000"):
        verify(copy)


@pytest.mark.parametrize("crc32", ["0" * 8, None])
def test_a_piece_of_any_size_is_verified_in_little_memory(copy, monkeypatch, crc32):
    """One checksum over all data, and a size that no machine has memory for."""
    monkeypatch.setattr(read_back, "READ_BYTES", 2 * packed.RECORD_ALIGNMENT)
    file = copy / "experts-00000.safetensors"
    blob = file.read_bytes()
    whole = zlib.crc32(blob[8 + int.from_bytes(blob[:8], "little") :])

    def lie(header):
        header["__metadata__"]["piece_bytes"] = str((10**12 - 1) // 16384 * 16384)
        header["__metadata__"]["crc32"] = crc32 or f"{whole:08x}"

    rewrite(file, lie)
    if crc32 is None:
        return verify(copy)
    with pytest.raises(moeflux.FormatError, match=r"checksum of piece 0.*experts-00000"):
        verify(copy)


@pytest.mark.parametrize("nbytes", [0, 7, 8, 1000, 16384, -1, -16384])
def test_truncated_files_are_errors_that_name_the_file(copy, nbytes):
    file = copy / "experts-00001.safetensors"
    size = file.stat().st_size
    os.truncate(file, nbytes if nbytes >= 0 else size + nbytes)
    for use in (verify, moeflux.load):
        with pytest.raises(moeflux.FormatError, match="experts-00001"):
            use(copy)


def test_a_missing_layer_is_an_error_that_names_it(copy):
    (copy / "experts-00002.safetensors").unlink()
    with pytest.raises(moeflux.IoError, match="experts-00002"):
        moeflux.load(copy)


def test_random_damage_to_headers_never_escapes_as_another_error(copy):
    """Bytes of a header changed at random: an error of ours or a model that loads."""
    file = copy / "experts-00000.safetensors"
    blob = bytearray(file.read_bytes())
    length = len(bytes(blob[8 : 8 + int.from_bytes(blob[:8], "little")]).rstrip())
    numbers = random.Random(1)
    errors = 0
    for _ in range(150):
        changed = bytearray(blob)
        for _ in range(numbers.choice([1, 1, 2, 8])):
            changed[numbers.randrange(8 + length)] = numbers.randrange(256)
        file.write_bytes(changed)
        try:
            moeflux.load(copy, memory="64MiB", context=64)
        except moeflux.MoefluxError:
            errors += 1
    assert errors > 50


def test_interrupted_by_hand_it_says_how_to_go_on(tmp_path):
    folder = synthesize(tmp_path / "m", Recipe("small", 8, ("num_experts=64",)))
    code = (
        "import sys, signal, os, threading, moeflux.cli as cli;"
        "from moeflux.packing import pieces; original = pieces.verify;"
        "pieces.verify = lambda *a: (os.kill(os.getpid(), signal.SIGINT), original(*a));"
        "sys.argv[1:] = ['pack', *sys.argv[1:]]; cli.main()"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "packed")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "goes on from here" in done.stderr and "Traceback" not in done.stderr
    done = run_moeflux("pack", folder, tmp_path / "packed")
    assert done.returncode == 0, done.stderr
    done = run_moeflux("pack", tmp_path / "packed", "--verify")
    assert done.returncode == 0 and "every checksum is right" in done.stdout
    done = run_moeflux("pack", folder)
    assert done.returncode == 1 and "TARGET" in done.stderr


@pytest.mark.parametrize("command", ["pack", "synth"])
def test_an_unfinished_folder_is_told_from_a_broken_one(tmp_path, source, monkeypatch, command):
    from moeflux import packing, synth

    def cut(*_, **__):
        raise InterruptedError

    folder = tmp_path / "m"
    with monkeypatch.context() as patch:
        patch.setattr(packing.beside, "copy_small", cut)
        patch.setattr(synth.mlx, "write", cut)
        with pytest.raises(moeflux.IoError):
            pack(source, folder) if command == "pack" else synthesize(folder, Recipe("small", 2))
    with pytest.raises(
        moeflux.FormatError, match=f"unfinished one: run the same `moeflux {command}"
    ):
        moeflux.load(folder)


def stderr_of(*args):
    return run_moeflux(*args, env=os.environ | {"COLUMNS": "80"}).stderr


def test_what_is_refused_at_once_is_one_line(source, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for args in (["pack", tmp_path, tmp_path / "to"], ["pack", source, tmp_path],
                 ["synth", tmp_path, "--shape", "small"]):  # fmt: skip
        shown = stderr_of(*args)
        assert shown.startswith("moeflux: ") and shown.count("\n") == 1


def test_bars_leave_room_for_what_ctrl_c_shows(source, tmp_path):
    """A terminal echoes ^C: in the last column it would begin a line, and the bar come twice."""
    shown = stderr_of("pack", source, tmp_path / "to") + stderr_of(
        "synth", tmp_path / "from", "--shape", "small"
    )
    assert "packed" in shown and "safetensors" in shown
    assert max(map(len, shown.splitlines())) <= 78


def test_the_layout_constants_are_those_of_the_store():
    core = Path(__file__).parents[2] / "csrc"
    header = (core / "base/slab.h").read_text() + (core / "store/layer_experts.h").read_text()
    assert f"kSlotAlignment = {packed.RECORD_ALIGNMENT};" in header
    assert f"kPartAlignment = {packed.PART_ALIGNMENT};" in header
