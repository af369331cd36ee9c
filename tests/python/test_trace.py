"""Trace files: what is written is read, what is damaged is refused; captures of generations."""

import contextlib
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux.trace import Trace, TraceWriter, read_trace
from oracle import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("trace") / "m", "qwen3_moe", "mlx-q4",
                   mlp_only_layers=[1])  # fmt: skip
    return moeflux.load(folder, memory="128MiB", context=96)


def n_experts(model):
    return model.config["num_experts"]


def test_what_is_written_is_read(model, tmp_path):
    writer = TraceWriter(n_experts(model), {"text": "ids of a test"})
    expected = []
    for seed in range(3):
        session = model.session()
        writer.begin()
        for tokens in ([seed + 1, 7, 8], [9], [10, 11]):
            seen = session.step(tokens, capture={"experts", "router", "hidden"})
            writer.add(tokens, seen)
            expected.append((tokens, seen))
    path = tmp_path / "trace.npz"
    writer.trace().save(path)
    trace = read_trace(path)
    assert trace.n_experts == n_experts(model) and trace.info == {"text": "ids of a test"}
    assert [(rows.start, rows.stop) for rows in trace.sequences()] == [(0, 6), (6, 12), (12, 18)]
    assert trace.arrays["tokens"].tolist() == [t for tokens, _ in expected for t in tokens]
    assert np.array_equal(trace.experts, np.concatenate([s["experts"] for _, s in expected]))
    for name in ("expert_weights", "router", "hidden"):
        whole = np.concatenate([seen[name] for _, seen in expected])
        assert np.array_equal(trace.arrays[name], whole, equal_nan=True)
    assert (trace.experts[:, 1] == -1).all() and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_recorded_trace_of_the_demo_model_is_readable():
    trace = read_trace(ROOT / "benchmarks/traces/demo_heldout.npz")
    assert trace.experts.shape == (10240, 8, 4) and trace.n_experts == 40
    assert (np.diff(trace.experts, axis=-1) > 0).all()
    with np.load(ROOT / "benchmarks/traces/demo_heldout.npz") as file:
        assert np.array_equal(np.sort(file["experts"], axis=-1), trace.experts)


def test_weights_follow_their_experts_when_rows_are_sorted(tmp_path):
    np.savez(tmp_path / "t.npz", experts=[[[5, 1, 3]]], n_experts=6,
             expert_weights=[[[0.5, 0.1, 0.3]]])  # fmt: skip
    trace = read_trace(tmp_path / "t.npz")
    assert trace.experts.tolist() == [[[1, 3, 5]]]
    assert trace.arrays["expert_weights"].tolist() == [[[0.1, 0.3, 0.5]]]
    assert trace.starts.tolist() == [0]


GOOD = {"experts": np.array([[[0, 1]], [[2, 3]], [[-1, -1]]]), "n_experts": np.array(4)}
BAD = {
    "no experts": {"experts": None},
    "no number": {"n_experts": None},
    "float experts": {"experts": np.zeros((3, 1, 2))},
    "flat experts": {"experts": np.arange(3)},
    "no tokens": {"experts": np.zeros((0, 1, 2), int)},
    "expert out of range": {"n_experts": np.array(3)},
    "expert below -1": {"experts": np.array([[[0, -2]]])},
    "expert twice": {"experts": np.array([[[1, 1]]])},
    "half a choice": {"experts": np.array([[[-1, 1]]])},
    "number of many": {"n_experts": np.array([4])},
    "another schema": {"schema": np.array("moeflux-trace/2")},
    "short tokens": {"tokens": np.arange(2)},
    "float tokens": {"tokens": np.zeros(3)},
    "narrow weights": {"expert_weights": np.zeros((3, 1, 1))},
    "router of other experts": {"router": np.zeros((3, 1, 5))},
    "hidden of other layers": {"hidden": np.zeros((3, 1, 8))},
    "starts not at 0": {"starts": np.array([1])},
    "starts that stand": {"starts": np.array([0, 1, 1])},
    "starts past the end": {"starts": np.array([0, 3])},
    "no starts": {"starts": np.array([], int)},
    "info that is no object": {"info": np.array("[1]")},
    "info that is no JSON": {"info": np.array("{")},
    "pickled objects": {"router": np.array([{}, 1], dtype=object)},
}


@pytest.mark.parametrize("case", BAD)
def test_a_trace_that_does_not_fit_itself_is_refused_by_name(tmp_path, case):
    path = tmp_path / "t.npz"
    np.savez(path, **GOOD)
    assert len(read_trace(path).experts) == 3
    arrays = {key: value for key, value in (GOOD | BAD[case]).items() if value is not None}
    np.savez(path, **arrays)
    with pytest.raises(moeflux.FormatError, match=r"t\.npz"):
        read_trace(path)


def test_damaged_and_missing_files_are_typed_errors(tmp_path):
    stream = io.BytesIO()
    np.savez_compressed(stream, **GOOD)
    data = stream.getvalue()
    path = tmp_path / "t.npz"
    for damaged in (b"", b"PK", data[:50], data[:-30], b"\x93NUMPY" + data[6:]):
        path.write_bytes(damaged)
        with pytest.raises(moeflux.FormatError):
            read_trace(path)
    for at in range(0, len(data), 7):  # any byte may lie
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with contextlib.suppress(moeflux.FormatError):
            read_trace(path)
    with pytest.raises(moeflux.IoError):
        read_trace(tmp_path / "missing.npz")
    with pytest.raises(moeflux.IoError):
        Trace(GOOD["experts"], 4, np.array([0])).save(tmp_path / "no" / "folder.npz")


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(moeflux.trace, "LIMIT_BYTES", 1 << 20)
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("experts.npy", bytes(2 << 20))
    with pytest.raises(moeflux.FormatError, match="at most"):
        read_trace(path)


def test_a_writer_refuses_what_does_not_fit(model):
    writer = TraceWriter(n_experts(model))
    with pytest.raises(moeflux.SessionError, match="nothing"):
        writer.trace()
    seen = model.session().step([1, 2], capture={"experts"})
    with pytest.raises(moeflux.SessionError, match="do not fit"):
        writer.add([1], seen)
    with pytest.raises(moeflux.SessionError, match="experts"):
        writer.add([1, 2], {"logits": seen["logits"]})
    writer.add([1, 2], seen)
    with pytest.raises(moeflux.SessionError, match="expected"):
        writer.add([1, 2], model.session().step([1, 2], capture={"experts", "router"}))


def test_a_generation_captures_what_chose_each_token(model):
    prompt, options = [65, 66, 67, 68], {"max_tokens": 5, "logit_bias": {256: -1e9}}
    plain = list(moeflux.stream_generate(model, prompt, **options))
    parts = list(moeflux.stream_generate(model, prompt, capture={"experts", "hidden"}, **options))
    assert [p.token for p in parts] == [p.token for p in plain]
    assert all(part.captured is None for part in plain)
    seen = [part.captured for part in parts if part.captured]
    assert [len(one["experts"]) for one in seen] == [4, 1, 1, 1, 1]
    tokens = prompt + [part.token for part in parts if part.token is not None][:-1]
    whole = model.session().step(tokens, capture={"experts", "hidden"})
    for name in ("experts", "expert_weights", "hidden"):
        assert np.array_equal(np.concatenate([one[name] for one in seen]), whole[name])
    with pytest.raises(moeflux.SessionError, match="capture"):
        moeflux.stream_generate(model, prompt, capture={"thoughts"})


def test_a_generation_that_ends_has_the_step_that_chose_the_end(model):
    parts = list(moeflux.stream_generate(model, [65, 66], capture="experts", max_tokens=5,
                                         logit_bias={256: 1e9}))  # fmt: skip
    assert [part.finish_reason for part in parts] == ["eos"]
    assert len(parts[0].captured["experts"]) == 2


def test_capturing_changes_no_bit(model):
    tokens = list(range(1, 90))
    plain = model.session().step(tokens, all_logits=True)
    for capture in ({"experts"}, {"router"}, {"hidden"}, {"experts", "router", "hidden"}):
        seen = model.session().step(tokens, all_logits=True, capture=capture)
        assert np.array_equal(seen["logits"], plain)


def test_the_blocks_of_the_document_run(capsys):
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/research.md").read_text(), re.S):
        exec(compile(code, "docs/research.md", "exec"), names)
    assert "override" in capsys.readouterr().out
