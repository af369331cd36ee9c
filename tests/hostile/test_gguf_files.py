"""GGUF files that lie: each is a typed error that names the file, or a model within its file."""

import os
import resource
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.gguf.header import read_header
from support import gguf_twin

EXAMPLES = int(os.environ.get("MOEFLUX_FUZZ_EXAMPLES", "250"))
MOST_BYTES = 300 << 20
HUGE = 1 << 62


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name, kind, code, *values):
    return text(name) + struct.pack("<I" + code, kind, *values)


def row(name, dims, kind=0, offset=0):
    return (text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
            + struct.pack("<IQ", kind, offset))  # fmt: skip


def file(keys=(), rows=(), data=512, *, version=3, magic=b"GGUF", n_rows=None, n_keys=None):
    counts = struct.pack("<IQQ", version, len(rows) if n_rows is None else n_rows,
                         len(keys) if n_keys is None else n_keys)  # fmt: skip
    head = magic + counts + b"".join(keys) + b"".join(rows)
    return head + bytes(-len(head) % 32) + bytes(data)


ARCH = text("general.architecture") + struct.pack("<I", 8) + text("qwen3moe")
W = row("w", [32, 4])
ALIGNMENT = "general.alignment"
BAD = {
    "nothing": (b"", "expected 4 bytes"),
    "another kind": (file(magic=b"GGML"), "expected b'GGUF', found b'GGML'"),
    "version 1": (file(version=1), "version 2 or 3, found 1"),
    "version 4": (file(version=4), "version 2 or 3, found 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian"),
    "count of tensors": (file([ARCH], [W], n_rows=HUGE), "as many tensors and keys"),
    "count of keys": (file([ARCH], [W], n_keys=HUGE), "as many tensors and keys"),
    "length of a key": (file([struct.pack("<Q", HUGE) + bytes(16)]), "bytes of a key"),
    "length of a text": (file([text("a") + struct.pack("<IQ", 8, HUGE)]), "a length of 46116"),
    "length of an array": (file([key("a", 9, "IQ", 4, HUGE)]), "found a count of 46116"),
    "length of texts": (file([key("a", 9, "IQ", 8, HUGE)]), "found a count of 46116"),
    "array of arrays": (file([key("a", 9, "IQ", 9, 1) + bytes(12)]), "found one of arrays"),
    "type of a value": (file([key("a", 13, "I", 0)]), "value type of 0 to 12"),
    "truth value of 2": (file([key("a", 7, "B", 2)]), "expected 0 or 1"),
    "key twice": (file([key("a", 4, "I", 1)] * 2), "keys that differ"),
    "empty key": (file([key("", 4, "I", 1)]), "not empty"),
    "key no UTF-8": (file([key(b"\xff", 4, "I", 1)]), "UTF-8"),
    "alignment 0": (file([key(ALIGNMENT, 4, "I", 0)], [W]), "a power of two"),
    "alignment 48": (file([key(ALIGNMENT, 4, "I", 48)], [W]), "a power of two"),
    "alignment 2^31": (file([key(ALIGNMENT, 4, "I", 1 << 31)], [W]), "a power of two"),
    "alignment 32.0": (file([key(ALIGNMENT, 6, "f", 32.0)], [W]), "a power of two"),
    "name of 64 bytes": (file([ARCH], [row("w" * 64, [32])]), "at most 63 bytes"),
    "tensor twice": (file([ARCH], [W, row("w", [32, 4], 0, 512)], 1024), "each tensor once"),
    "Ollama's type": (file([ARCH], [row("w", [32, 4], 4)]), "made for llama.cpp"),
    "removed type": (file([ARCH], [row("w", [32, 4], 31)]), "Q4_0_4_4, which ggml has no more"),
    "unknown type": (file([ARCH], [row("w", [32, 4], 999)]), "known type of 'w', found 999"),
    "five dimensions": (file([ARCH], [row("w", [2] * 5)]), "up to 4 dimensions"),
    "dimension 0": (file([ARCH], [row("w", [0, 4])]), r"in 1..2\^60"),
    "sizes that overflow": (file([ARCH], [row("w", [1 << 32, 1 << 32, 32])]), r"in 1..2\^60"),
    "part of a block": (file([ARCH], [row("w", [33, 4], 2)]), "whole blocks of 32"),
    "odd offset": (file([ARCH], [row("w", [32, 4], 0, 8)]), "'w' at 0 of the data"),
    "overlap": (file([ARCH], [W, row("v", [32, 4], 0, 256)], 1024), "'v' at 512"),
    "hole": (file([ARCH], [W, row("v", [32, 4], 0, 1024)], 2048), "'v' at 512"),
    "offset of 2^64": (file([ARCH], [row("w", [32, 4], 0, (1 << 64) - 32)]), "'w' at 0"),
    "data behind the end": (file([ARCH], [row("w", [32, 400])]), "expected 51200 bytes of 'w'"),
    "split.no": (file([key("split.no", 2, "H", 3), key("split.count", 2, "H", 2)], [W]),
                 "split.no below split.count"),
    "split's name": (file([key("split.no", 2, "H", 0), key("split.count", 2, "H", 2)], [W]),
                     r"the name \*-00001-of-00002.gguf"),
    "no architecture": (file([], [W]), "unknown general.architecture None"),
    "another architecture": (file([text("general.architecture") + struct.pack("<I", 8)
                                   + text("clip")], [W]), "unknown general.architecture 'clip'"),
    "no language model": (file([text("general.type") + struct.pack("<I", 8) + text("mmproj")]),
                          "found 'mmproj'"),
    "no embedding": (file([ARCH], [W]), "a matrix token_embd.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_contradicts_itself_is_refused_by_name(what, tmp_path):
    content, words = BAD[what]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(moeflux.FormatError, match=words) as refused:
        moeflux.load(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", ["pipe", "folder", "missing"])
def test_what_is_no_file_is_refused(kind, tmp_path):
    path = tmp_path / "model.gguf"
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "missing": lambda: None}[kind]()
    with pytest.raises(moeflux.MoefluxError):
        moeflux.load(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path, _ = gguf_twin.make(tmp_path_factory.mktemp("good"), "qwen3_moe", gguf_twin.mixed,
                             num_hidden_layers=1, num_experts=4)  # fmt: skip
    return path.read_bytes()


def test_tensors_lie_where_the_gguf_package_finds_them(good, tmp_path):
    import gguf

    path = tmp_path / "model.gguf"
    path.write_bytes(good)
    header, reader = read_header(path), gguf.GGUFReader(path)
    found = [(e.name, e.type.name, e.shape, e.offset, e.nbytes) for e in header.entries]
    assert found == [
        (t.name, t.tensor_type.name, tuple(reversed(t.shape.tolist())), t.data_offset, t.n_bytes)
        for t in reader.tensors
    ]
    for name, value in header.metadata.items():
        expected = reader.fields[name].contents()
        plain = [v.decode() for v in value] if isinstance(value, list) else value
        assert (plain == expected) if not hasattr(value, "tolist") else value.tolist() == expected


def test_every_type_has_the_sizes_that_the_gguf_package_knows():
    import gguf

    from moeflux.gguf.types import TYPES

    known = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    del known[int(gguf.GGMLQuantizationType.Q8_1)]  # no file has it
    assert {number: tuple(TYPES[number]) for number in known} == known


def head_bytes(content):
    return content.index(b"blk.0.") + 4096


VALUES = st.sampled_from([0, 1, 2, 7, 8, 9, 31, 32, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 32,
                          1 << 40, HUGE, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])  # fmt: skip
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), VALUES, st.sampled_from([1, 4, 8])),
                  min_size=1, max_size=3)  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=DAMAGE, cut=st.one_of(st.none(), st.integers(0, 1 << 20)))
def test_damaged_files_load_or_are_refused(good, tmp_path_factory, damage, cut):
    content = bytearray(good)
    for at, value, size in damage:
        at %= min(head_bytes(good), len(content) - size)
        content[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    if cut is not None:
        del content[cut % len(content) :]
    path = Path(tmp_path_factory.getbasetemp()) / "damaged.gguf"
    path.write_bytes(content)
    before = peak_bytes()
    try:
        for tensor in open_checkpoint(path).tensors.values():
            assert 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= len(content)
        model = moeflux.load(path, memory="64MiB", context=64, threads=1)
        model.session().step([1, 2, 3])
        moeflux.generate(model, "ab", max_tokens=2)
    except moeflux.MoefluxError as error:
        assert str(error)
    assert peak_bytes() - before < MOST_BYTES or "asan" in os.environ.get("LD_PRELOAD", "")


def peak_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
