"""Passes of more rows than a chunk: fewer reads, the same bits, whole or not at all."""

import os
import threading
import time

import numpy as np
import pytest

import moeflux
from oracle import build
from oracle.goldens import SOME_FAMILIES
from support.budget import named, smallest_budget
from support.devices import DEVICES

SHAPE = {"num_experts": 12, "num_experts_per_tok": 3}
RANDOM = np.random.Generator(np.random.PCG64(11))
TEXT = [int(t) for t in RANDOM.integers(0, 250, 700)]
LENGTHS = (1, 40, 333, 64, 200, 1)


@pytest.fixture(scope="module", params=SOME_FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


def load(path, **options):
    defaults = {"memory": "256MiB", "context": 1024, "read_ahead": False, "threads": 2}
    return moeflux.load(path, **defaults | options)


def run(model, *, sizes=(5, 650, 45), **options):
    """Logits after every token of the text, in steps of so many."""
    session, out, at = model.session(), [], 0
    for size in sizes:
        out.append(session.step(TEXT[at : at + size], all_logits=True, **options))
        at += size
    return np.concatenate(out)


@pytest.fixture(scope="module")
def narrow(folder):
    """Passes of a chunk, and their stats with three slots and with all."""
    model = load(folder, rows=64, max_slots=3)
    assert model.chunk == model.rows == 64
    logits = run(model)
    assert np.isfinite(logits).all() and model.stats["misses"] > 0
    return logits, model.stats


@pytest.mark.parametrize("rows", [65, 128, 200, 512, 4096])
def test_a_wide_pass_has_the_bits_of_chunks_and_reads_less(folder, narrow, rows):
    model = load(folder, rows=rows, max_slots=3)
    assert model.rows == rows
    assert np.array_equal(run(model), narrow[0])
    if rows > 700:
        assert model.stats["passes"] == 3
    if rows >= 128:
        assert model.stats["passes"] < narrow[1]["passes"]
        assert model.stats["bytes_read"] < 0.8 * narrow[1]["bytes_read"]


@pytest.mark.parametrize("options", [
    {"max_slots": 3, "read_ahead": True}, {"max_slots": 7}, {"threads": 1}, {"threads": 5},
    {"max_slots": 4, "direct_io": False},
], ids=str)  # fmt: skip
def test_bits_do_not_depend_on_slots_threads_and_reads(folder, narrow, options):
    assert np.array_equal(run(load(folder, rows=512, **options)), narrow[0])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_have_the_same_bits_too(folder, precision):
    logits = [run(load(folder, rows=rows, max_slots=3, precision=precision)) for rows in (64, 640)]
    assert np.array_equal(*logits)


def test_a_capture_sees_the_same_rows(folder):
    seen = []
    for rows in (64, 1024):
        model = load(folder, rows=rows, max_slots=5)
        session = model.session()
        session.step(TEXT[:10])
        seen.append(session.step(TEXT[10:300], capture={"experts", "router", "hidden"}))
    for name in ("experts", "expert_weights", "router", "hidden", "logits"):
        assert (name in seen[0]) == (name in seen[1])
        if name in seen[0]:
            assert np.array_equal(seen[0][name], seen[1][name], equal_nan=name == "router")


@pytest.mark.parametrize("rows", [64, 130, 512, 4096])
@pytest.mark.parametrize("begin", [0, 50])
def test_any_mixture_of_sessions_has_the_bits_of_each_alone(folder, rows, begin):
    model, alone = load(folder, rows=rows, max_slots=3), load(folder, rows=64)
    batch, expected = [], []
    for i, n in enumerate(LENGTHS):
        tokens = TEXT[i : i + n]
        for sessions, of in ((batch, model), (expected, alone)):
            session = of.session()
            if begin:
                session.step(TEXT[i : i + begin + i])
            sessions.append((session, tokens))
    before = model.stats["passes"]
    found = model.step_batch(batch)
    for (session, tokens), logits in zip(expected, found, strict=True):
        assert np.array_equal(session.step(tokens), logits)
    if rows > sum(LENGTHS):
        assert model.stats["passes"] - before == 1
    after = model.step_batch([(session, [7]) for session, _ in batch])
    for (session, _), logits in zip(expected, after, strict=True):
        assert np.array_equal(session.step([7]), logits)


def test_an_override_of_more_experts_takes_fewer_rows(folder):
    mine = moeflux.Routing(top_k=6)
    logits = []
    for rows in (64, 512):
        model = load(folder, rows=rows, max_slots=6)
        session = model.session(routing=mine)
        logits.append(session.step(TEXT[:500], all_logits=True))
    assert np.array_equal(*logits)


def test_the_smallest_budget_of_asked_for_rows_is_exact_and_kept(folder, narrow):
    options = {"context": 1024, "rows": 512, "threads": 2, "read_ahead": False}
    memory = smallest_budget(folder, **options)
    model = moeflux.load(folder, memory=memory, **options)
    assert np.array_equal(run(model), narrow[0])
    stats = model.stats
    assert stats["misses"] > 0 and stats["peak_bytes"] <= memory
    assert stats["passes"] < narrow[1]["passes"]
    with pytest.raises(moeflux.MemoryBudgetError, match="fewer rows=") as refusal:
        moeflux.load(folder, memory=memory - 1, **options)
    assert named(refusal.value) == memory
    assert smallest_budget(folder, **options | {"rows": 64}) < memory


def test_what_a_wide_pass_computes_in_is_given_back(folder):
    model = load(folder, rows=512, max_slots=6)
    session = model.session()
    session.step(TEXT[:64])
    live, session2 = model.stats["live_bytes"], model.session()
    session2.step(TEXT[:600])
    assert model.stats["peak_bytes"] > live
    del session2
    session.step(TEXT[64:128])
    slots = model.stats["slot_bytes"] * 6
    assert model.stats["live_bytes"] <= live + slots


def test_passes_get_narrower_while_sessions_hold_the_memory(folder, narrow):
    options = {"context": 1024, "rows": 512, "threads": 2, "read_ahead": False}
    memory = smallest_budget(folder, **options)
    model = moeflux.load(folder, memory=memory, **options)
    others = []
    with pytest.raises(moeflux.MemoryBudgetError):
        while True:
            others.append(model.session())
            others[-1].step(TEXT[:200])
    del others[-2:]
    session, before = model.session(), model.stats["passes"]
    n = min(300, 64 * 4)
    logits = session.step(TEXT[:n], all_logits=True)
    assert np.array_equal(logits, narrow[0][:n])
    assert model.stats["passes"] - before > 1
    assert model.stats["peak_bytes"] <= memory


def test_the_plan_chooses_a_chunk_where_all_fits_and_wide_passes_where_not(folder, narrow):
    options = {"context": 1024, "threads": 2, "read_ahead": False}
    assert moeflux.load(folder, memory="256MiB", **options).rows == 64
    least = smallest_budget(folder, **options)
    assert moeflux.load(folder, memory=least, **options).rows == 64
    wide = load(folder, max_slots=6)  # room for passes, if not for slots
    assert wide.rows == 1024 and np.array_equal(run(wide), narrow[0])
    assert wide.stats["passes"] == 3
    assert load(folder, max_slots=6, context=100).rows == 128


@pytest.mark.parametrize("rows", [0, 63, 4097, 2.5, "512", True])
def test_rows_out_of_range_are_refused_by_name(folder, rows):
    with pytest.raises(moeflux.FormatError, match="rows"):
        load(folder, rows=rows)


def test_an_abort_in_the_middle_of_a_wide_pass_leaves_sessions_as_before(folder):
    model = load(folder, rows=4096, context=8192, max_slots=3)
    session, fresh = model.session(), model.session()
    for s in (session, fresh):
        s.step(TEXT[:30])
    prompt, ended, late = TEXT * 5, [], []
    for delay in (0.01, 0.05, 0.2):

        def work():
            try:
                while True:
                    session.step(prompt)
                    session.reset()
                    session.step(TEXT[:30])
            except moeflux.Interrupted:
                ended.append(time.monotonic())

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(delay)
        while thread.is_alive():
            begin = time.monotonic()
            model.abort()
            thread.join(2)
            late.append(time.monotonic() - begin)
        if session.position != 30:  # between two steps
            session.reset()
            session.step(TEXT[:30])
    assert len(ended) == 3 and session.position == 30
    assert np.array_equal(session.step(TEXT[:200]), fresh.step(TEXT[:200]))


def test_an_expert_that_cannot_be_read_leaves_sessions_as_before(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = load(tmp_path, rows=512, max_slots=3)
    one, other, fresh = (model.session() for _ in range(3))
    for session in (one, other, fresh):
        session.step(TEXT[:10])
    shards = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    for path in shards:
        os.truncate(path, 5000)
    with pytest.raises(moeflux.IoError, match="safetensors"):
        model.step_batch([(one, TEXT[:300]), (other, TEXT[:150])])
    for path, content in shards.items():  # the same files, which are open
        with path.open("r+b") as stream:
            stream.write(content)
    assert one.position == other.position == 10
    expected = fresh.step(TEXT[:300])
    assert np.array_equal(model.step_batch([(one, TEXT[:300]), (other, TEXT[:150])])[0], expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next"])
def test_on_a_device_a_wide_pass_has_the_bits_of_chunks(tmp_path, device, family):
    path = build(tmp_path / family, family=family, form="mlx-q4", seed=7, **SHAPE)
    logits = []
    for rows in (64, 256):
        model = load(path, rows=rows, device=device, context=256, max_slots=3)
        session = model.session()
        session.step(TEXT[:5])
        logits.append(session.step(TEXT[5:160]))
    assert model.stats["passes"] == 2
    assert np.array_equal(*logits)
