"""Snapshots in files: a session goes on bit for bit in another process, and no file that is
damaged, cut, another model's or hostile does harm."""

import dataclasses
import json
import os
import random
import stat
import zlib

import numpy as np
import pytest

import moeflux
from moeflux import FormatError, IoError, SessionError, Snapshot, saved, snapshot
from oracle import build
from support import disks
from support.snapshots import FEW, SHAPE, TOKENS, N, held, unharmed

LENGTHS = (0, 1, 16, 255, 256, 257, 512, 599)


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


@pytest.mark.parametrize("room", [0, 10, 1000, 20_000])
def test_a_full_disk_leaves_what_was_there(tmp_path, model, whole, small, room):
    (tmp_path / "s").write_bytes(small)
    with unharmed(model, whole) as session:
        saved_now = session.save()
        with disks.full(room), pytest.raises(IoError, match=r"^\[snapshot\] cannot write: .*/s\)$"):
            saved_now.write(tmp_path / "s")
        with disks.full(room), pytest.raises(IoError):
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
