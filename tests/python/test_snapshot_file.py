"""Snapshots in files: a session goes on bit for bit in another process, and no file that is
damaged, cut, another model's or hostile does harm."""

import dataclasses
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager

import numpy as np
import pytest

import moeflux
from moeflux import FormatError, IoError, MemoryBudgetError, SessionError, Snapshot, saved, snapshot
from oracle import build
from support import budget

N = 600  # two extents of the KV cache and a part of a third
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(8)).integers(0, 250, N)]
LENGTHS = (0, 1, 16, 255, 256, 257, 512, 599)
SHAPE = {"num_experts": 6, "num_experts_per_tok": 6}
FEW = {"memory": "256MiB", "max_slots": 6, "threads": 2}  # experts come and go


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_next"])
def folder(request, tmp_path_factory):
    """A model of attention alone, and one with gated delta nets."""
    path = tmp_path_factory.mktemp("saved") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, context=N, **FEW)


@pytest.fixture(scope="module")
def whole(model):
    """Logits after every token of one prompt."""
    return model.session().step(TOKENS, all_logits=True)


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """The bytes of a snapshot of three tokens."""
    path = tmp_path_factory.mktemp("small") / "s"
    session = model.session()
    session.step(TOKENS[:3])
    session.save().write(path, tokens=TOKENS[:3], note="a note")
    return path.read_bytes()


def held(model):
    """Bytes of the budget, but for slots."""
    stats = model.stats
    return stats["live_bytes"] - stats["slots"] * stats["slot_bytes"]


@contextmanager
def unharmed(model, whole):
    """A session that stands beside what happens, and the budget."""
    session = model.session()
    session.step(TOKENS[:5])
    before = held(model)
    yield session
    assert held(model) == before
    assert np.array_equal(session.step(TOKENS[5:8], all_logits=True), whole[5:8])


def resealed(data, change):
    """The file with a header that `change` has made another, and the checksum of that."""
    magic, version, length = saved._PREFIX.unpack(data[:24])
    header = json.loads(data[28 : 28 + length])
    text = change(header)
    text = (
        json.dumps(header if text is None else text).encode()
        if not isinstance(text, bytes)
        else text
    )
    prefix = saved._PREFIX.pack(magic, version, len(text))
    crc = zlib.crc32(text, zlib.crc32(prefix))
    return prefix + crc.to_bytes(4, "little") + text + data[28 + length :]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_session_goes_on_in_another_model_with_the_bits_of_one_run(
    tmp_path, folder, model, whole, length
):
    session = model.session()
    if length:
        session.step(TOKENS[:length])
    session.save().write(tmp_path / "s", tokens=TOKENS[:length], note="näher")
    other = moeflux.load(folder, context=1000, **FEW | {"threads": 1})
    before = held(other)
    read = Snapshot.read(other, tmp_path / "s")
    assert read.position == length and read.note == "näher"
    assert held(other) - before >= read.nbytes
    assert length == 0 or read.tokens.tolist() == TOKENS[:length]
    for _ in range(2):  # a snapshot may be gone back to more than once
        again = other.session()
        again.restore(read)
        assert np.array_equal(again.step(TOKENS[length:], all_logits=True), whole[length:])
    del again, read
    assert held(other) == before


def test_a_snapshot_that_was_read_is_written_as_it_was(tmp_path, model, small):
    (tmp_path / "a").write_bytes(small)
    Snapshot.read(model, tmp_path / "a").write(tmp_path / "b", note="a note")
    assert (tmp_path / "b").read_bytes() == small


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_cache_of_16_bits_goes_on_and_another_precision_is_refused(
    tmp_path, folder, model, precision
):
    own = moeflux.load(folder, context=N, precision=precision, **FEW)
    session = own.session()
    session.step(TOKENS[:300])
    session.save().write(tmp_path / "s")
    again = own.session()
    again.restore(Snapshot.read(own, tmp_path / "s"))
    assert np.array_equal(again.step(TOKENS[300:310]), session.step(TOKENS[300:310]))
    with pytest.raises(FormatError, match=f"expected a snapshot of this model: .*{precision}"):
        Snapshot.read(model, tmp_path / "s")


def test_a_device_goes_on_in_another_context(tmp_path, folder):
    first, other = (
        moeflux.load(folder, memory="256MiB", context=n, device="host") for n in (64, 48)
    )
    session = first.session()
    session.step(TOKENS[:40])
    session.save().write(tmp_path / "s")
    again = other.session()
    again.restore(Snapshot.read(other, tmp_path / "s"))
    assert np.array_equal(again.step(TOKENS[40:43]), session.step(TOKENS[40:43]))


def test_another_model_is_refused_by_what_differs(tmp_path, model, whole, small, monkeypatch):
    (tmp_path / "s").write_bytes(small)
    family = model.config["model_type"]
    weights = build(tmp_path / "w", family=family, form="mlx-q4", seed=8, **SHAPE)
    layers = build(
        tmp_path / "l", family=family, form="mlx-q4", seed=7, **SHAPE | {"num_experts": 7}
    )
    for folder in (weights, layers):
        with pytest.raises(FormatError, match=r"this model: weights '\w+', found '\w+'"):
            Snapshot.read(moeflux.load(folder, context=N, **FEW), tmp_path / "s")
    with unharmed(model, whole), monkeypatch.context() as patch:
        patch.setattr(snapshot, "__version__", "9.9")
        with pytest.raises(FormatError, match=r"this model: moeflux '9.9', found"):
            Snapshot.read(model, tmp_path / "s")


def test_one_weight_of_a_kind_is_enough_to_tell_models_apart(tmp_path, folder):
    """Every tensor of another seed differs; here a single byte of one does."""
    found = set()
    for at in (None, "self_attn.o_proj.weight", "embed_tokens.weight", "lm_head.weight"):
        copy = tmp_path / str(at)
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        checkpoint = moeflux.checkpoint.open_checkpoint(copy)
        for tensor in checkpoint.tensors.values():
            if at and tensor.name.endswith(at):
                with checkpoint.files[tensor.file].open("r+b") as stream:
                    stream.seek(tensor.offset + tensor.nbytes // 2)
                    byte = stream.read(1)[0]
                    stream.seek(-1, 1)
                    stream.write(bytes([byte ^ 1]))
        found.add(moeflux.identity.Identity(moeflux.checkpoint.open_checkpoint(copy)).weights)
    assert len(found) == 4


def test_more_tokens_than_the_context_are_refused(tmp_path, folder, model):
    session = model.session()
    session.step(TOKENS[:65])
    session.save().write(tmp_path / "s")
    with pytest.raises(SessionError, match=r"at most 64 tokens, found 65; load with a larger"):
        Snapshot.read(moeflux.load(folder, context=64, **FEW), tmp_path / "s")


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path, model, whole, small):
    path, draw = tmp_path / "s", random.Random(3)
    every = os.environ.get("MOEFLUX_FULL") == "1"
    places = range(len(small)) if every else [*range(1000), *range(1000, len(small), 97)]
    with unharmed(model, whole):
        for at in places:
            flipped = bytearray(small)
            flipped[at] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(FormatError, match=r"^\[snapshot\] expected"):
                Snapshot.read(model, path)


def test_a_file_that_was_cut_or_has_more_is_found(tmp_path, model, whole, small):
    path = tmp_path / "s"
    with unharmed(model, whole):
        for length in (0, 1, 15, 16, 23, 27, 28, 100, *range(0, len(small), 997), len(small) - 1):
            path.write_bytes(small[:length])
            with pytest.raises(FormatError, match=r"^\[snapshot\] expected"):
                Snapshot.read(model, path)
        for more in (b"\0", small):
            path.write_bytes(small + more)
            with pytest.raises(FormatError, match=r"^\[snapshot\] expected \d+ bytes, found"):
                Snapshot.read(model, path)


@pytest.mark.parametrize("name", ["position", "n_tokens", "note_bytes", "state_bytes"])
@pytest.mark.parametrize(
    "value", [0, 1, 7, 2**24, 2**40, 2**62, 2**63, 10**400, -1, 1.5, True, "3", None, []]
)
def test_numbers_of_a_header_allocate_nothing(
    tmp_path, model, whole, small, name, value, monkeypatch
):
    """With a right checksum, and as long a file as it says where the disk has one: a sparse one."""

    def draft(*args):
        raise AssertionError(f"a state was booked: {args}")

    monkeypatch.setattr(snapshot._core, "NativeDraft", draft)
    data = resealed(small, lambda header: header.update({name: value}))
    said = json.loads(data[28 : 28 + int.from_bytes(data[20:24], "little")])
    with unharmed(model, whole):
        (tmp_path / "s").write_bytes(data)
        with pytest.raises((FormatError, SessionError), match=r"^\[snapshot\] expected"):
            Snapshot.read(model, tmp_path / "s")
        if type(value) is int and 0 < value <= 2**40:
            sizes = (4 * said["n_tokens"], said["note_bytes"], said["state_bytes"])
            head = 28 + int.from_bytes(data[20:24], "little")
            os.truncate(tmp_path / "s", head + sum(n + 4 * -(-n // saved.PIECE) for n in sizes))
            with pytest.raises((FormatError, SessionError), match=r"^\[snapshot\] expected"):
                Snapshot.read(model, tmp_path / "s")


def test_a_whole_file_with_a_state_of_another_length_is_refused(tmp_path, model, whole, small):
    """With right checksums to the end: a header of this model is not believed about its state."""
    (tmp_path / "s").write_bytes(small)
    with saved.opened(tmp_path / "s") as file:
        header, ids, note = file.header, file.tokens(), file.note().encode()
    with unharmed(model, whole):
        for nbytes in (0, 1, header.state_bytes - 1, header.state_bytes + 1, saved.PIECE * 3):
            wrong = dataclasses.replace(header, state_bytes=nbytes)
            saved.write(tmp_path / "w", wrong, ids, note, lambda begin, to: None)
            with pytest.raises(FormatError, match=rf"a state of \d+ bytes, found {nbytes} "):
                Snapshot.read(model, tmp_path / "w")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"position": 1}',
        b"\xff",
        b'"' + b"x" * 2**20 + b'"',
    ],
)
def test_headers_that_say_nothing_are_refused(tmp_path, model, small, text):
    (tmp_path / "s").write_bytes(resealed(small, lambda _: text))
    with pytest.raises(FormatError, match=r"^\[snapshot\] expected a header"):
        Snapshot.read(model, tmp_path / "s")


def test_models_that_are_none_are_refused(tmp_path, model, small):
    for value in (None, [], 1, {}, {"weights": []}, {"x" * 99: {"y": "z" * 999}}):
        (tmp_path / "s").write_bytes(
            resealed(small, lambda header, v=value: header.update(model=v))
        )
        with pytest.raises(FormatError, match=r"^\[snapshot\] expected .{0,400}$"):
            Snapshot.read(model, tmp_path / "s")


def test_what_is_no_file_is_refused(tmp_path, model):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "", "none"):
        with pytest.raises(IoError):
            Snapshot.read(model, tmp_path / name)
    (tmp_path / "text").write_text("moeflux snapshots are nice, and this file is long enough")
    with pytest.raises(FormatError, match="expected a file of a snapshot, found another"):
        Snapshot.read(model, tmp_path / "text")


@contextmanager
def full_disk(nbytes):
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 10, 1000, 20_000])
def test_a_full_disk_leaves_what_was_there(tmp_path, model, whole, small, room):
    (tmp_path / "s").write_bytes(small)
    with unharmed(model, whole) as session:
        saved_now = session.save()
        with full_disk(room), pytest.raises(IoError, match=r"^\[snapshot\] cannot write: .*/s\)$"):
            saved_now.write(tmp_path / "s")
        with full_disk(room), pytest.raises(IoError):
            saved_now.write(tmp_path / "new")
        del saved_now
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert (tmp_path / "s").read_bytes() == small


@pytest.mark.parametrize("place", ["none/s", "", "f/s"])
def test_places_that_take_no_file_are_refused(tmp_path, model, place):
    (tmp_path / "f").write_text("")
    with pytest.raises(IoError, match=r"^\[snapshot\] cannot write"):
        model.session().save().write(os.path.join(tmp_path, place))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_is_its_owners_and_replaces_another(tmp_path, model):
    snapshot = model.session().save()
    for _ in range(2):
        snapshot.write(tmp_path / "s")
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_arguments_of_write_are_checked(tmp_path, model):
    session = model.session()
    session.step([1, 2, 3])
    snapshot = session.save()
    for more in ({"tokens": [1]}, {"tokens": [1, 2, -3]}, {"tokens": "abc"}, {"note": None},
                 {"note": "\ud800"}, {"note": "x" * (saved.MAX_NOTE_BYTES + 1)}):  # fmt: skip
        with pytest.raises(SessionError, match=r"^\[snapshot\]"):
            snapshot.write(tmp_path / "s", **more)
    for path in (None, 3, b"s", "s\0"):
        with pytest.raises(SessionError, match="path: expected a path"):
            snapshot.write(path)
    with pytest.raises(SessionError, match="model: expected a Model"):
        Snapshot.read(session, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path, model, small):
    session = model.session()
    session.step([1, 2, 3])
    one, vocab, path = session.save(), model.vocab_size, tmp_path / "s"
    for token in (vocab, 2**32 - 1):
        with pytest.raises(SessionError, match=f"expected token ids below {vocab}, found {token}"):
            one.write(path, tokens=[1, 2, token])
        path.write_bytes(small)  # another program's
        with saved.opened(path) as file:
            header = file.header
        tokens = np.array([1, 2, token], np.uint32)
        saved.write(path, header, tokens, b"a note", one._native.read)
        with pytest.raises(FormatError, match="expected token ids below"):
            Snapshot.read(model, path)
        path.unlink()
    one.write(path, tokens=[1, 2, vocab - 1])
    assert Snapshot.read(model, path).tokens[-1] == vocab - 1


def test_a_snapshot_finds_room_in_place_of_experts_or_is_refused(tmp_path, folder, model, whole):
    session = model.session()
    session.step(TOKENS[:512])
    session.save().write(tmp_path / "s")
    least = budget.smallest_budget(folder, context=N)
    tight = moeflux.load(folder, memory=least, context=N, threads=2)
    with unharmed(tight, whole):
        kept = []
        with pytest.raises(MemoryBudgetError, match="a snapshot"):
            for _ in range(9):
                kept.append(Snapshot.read(tight, tmp_path / "s"))
        assert tight.stats["peak_bytes"] <= least
        del kept
    wide = moeflux.load(folder, memory="4GiB", context=N, threads=2)
    wide.session().step(TOKENS)  # slots grow into what is free
    room = wide.free_bytes
    read = Snapshot.read(wide, tmp_path / "s")
    assert room - wide.free_bytes >= read.nbytes


def test_ctrl_c_leaves_nothing_half_made(tmp_path, model, whole, monkeypatch):
    with unharmed(model, whole) as session:
        one, crc32 = session.save(), zlib.crc32
        one.write(tmp_path / "s")
        for path, use in ((tmp_path / "s", lambda p: Snapshot.read(model, p)),
                          (tmp_path / "new", one.write)):  # fmt: skip
            calls = iter(range(9))

            def stop(*args, calls=calls):
                if next(calls) == 2:  # after the header
                    os.kill(os.getpid(), signal.SIGINT)
                return crc32(*args)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(zlib, "crc32", stop)
                use(path)
        del one, use
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_writers_of_one_file_leave_a_whole_one(tmp_path, model):
    session = model.session()
    session.step(TOKENS[:300])
    one = session.save()
    notes = [str(i) * 9 for i in range(6)]
    threads = [
        threading.Thread(target=one.write, args=(tmp_path / "s",), kwargs={"note": note})
        for note in notes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Snapshot.read(model, tmp_path / "s").note in notes
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_closed_model_reads_none_and_its_snapshots_are_written(tmp_path, folder):
    with moeflux.load(folder, context=64, **FEW) as model:
        session = model.session()
        session.step([1, 2, 3])
        one = session.save()
    one.write(tmp_path / "s")
    with pytest.raises(SessionError, match="one that was closed"):
        Snapshot.read(model, tmp_path / "s")


KILLED = """
import os, sys, moeflux
from moeflux import saved
model = moeflux.load(sys.argv[1], memory="64MiB", context=64)
session = model.session()
session.step([1, 2, 3])
put = saved._put
def die(*args):
    put(*args)
    os.kill(os.getpid(), 9)
saved._put = die
session.save().write(sys.argv[2])
"""


def test_a_process_that_is_killed_leaves_the_file_of_before(tmp_path, folder, model, small):
    (tmp_path / "s").write_bytes(small)
    command = [sys.executable, "-c", KILLED, folder, tmp_path / "s"]
    assert subprocess.run(command).returncode == -9
    assert (tmp_path / "s").read_bytes() == small
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".part"}
