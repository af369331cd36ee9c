"""Layers with a sliding window keep what tokens to come see: no bit changes, and memory is bounded.

That a long session's logits are right: test_windows.py, against the reference."""

import numpy as np
import pytest

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.planning import plan
from oracle import build
from support import budget

N = 2000
EXTENT, TAKEN_BACK = 256, 64
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(3)).integers(0, 250, N)]
WINDOW = 40
LOAD = {"memory": "256MiB", "context": N + 48, "threads": 2}
# Of which every second layer has a window, and all but the last.
SHAPES = {
    "gpt_oss": {"form": "mlx-q4", "sliding_window": WINDOW, "num_hidden_layers": 4},
    "gemma4": {"form": "mlx-q4", "sliding_window": WINDOW},
}


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("window") / "m", family=request.param,
                 **SHAPES[request.param])  # fmt: skip


@pytest.fixture(scope="module")
def whole(folder):
    """Logits after every token, stepped so that hardly an extent is given back on the way."""
    model = moeflux.load(folder, **LOAD)
    session = model.session()
    parts = [session.step(TOKENS[at : at + 200], all_logits=True) for at in range(0, N, 200)]
    return np.concatenate(parts)


def windowed(session):
    """Bytes of an extent of layers with a window, and of the others."""
    extents = [session.bytes(i * EXTENT) - session.bytes((i - 1) * EXTENT) for i in (1, 7)]
    return extents[0] - extents[1], extents[1]


@pytest.mark.parametrize("kv", [None, "bfloat16", "int8"])
def test_one_step_and_single_tokens_have_the_same_bits(folder, whole, kv):
    model = moeflux.load(folder, kv=kv, **LOAD)
    session, other = model.session(), model.session()
    found = session.step(TOKENS, all_logits=True)  # its extents go round
    if kv is None:
        assert np.array_equal(found, whole)
    other.step(TOKENS[:1990])
    for at in range(1990, N):
        assert np.array_equal(other.step([TOKENS[at]]), found[at])


def test_a_session_takes_what_its_windows_hold(folder):
    model = moeflux.load(folder, **LOAD)
    model.session().step(TOKENS)  # every expert is in memory now
    before = model.stats["live_bytes"]
    session = model.session()
    of_window, of_others = windowed(session)
    assert of_window > 0 and of_others > 0
    held = -(-(WINDOW + TAKEN_BACK - 1) // EXTENT) + 1
    for n in (10, 255, 256, 257, 700, 1024, 1025, 1500, N):
        session.step(TOKENS[session.position : n])
        extents = -(-n // EXTENT)
        most = session.bytes(0) + extents * of_others + min(extents, held) * of_window
        assert session.bytes(n) == most
        taken = model.stats["live_bytes"] - before
        assert most - of_window <= taken <= most
    for at in range(N, N + 40):  # token by token, too
        session.step([at % 250])
        assert model.stats["live_bytes"] - before <= session.bytes(session.position)
    session.reset()
    assert model.stats["live_bytes"] - before == session.bytes(0)


def test_the_smallest_budget_takes_the_whole_context_in_one_step(folder, whole):
    memory = budget.smallest_budget(folder, context=N, threads=2)
    for steps in (1, 3, 11):
        model = moeflux.load(folder, memory=memory, context=N, threads=2)
        session, cut = model.session(), -(-N // steps)
        for at in range(0, N, cut):
            found = session.step(TOKENS[at : at + cut])
        assert np.array_equal(found, whole[-1])
        assert model.stats["peak_bytes"] <= memory


def test_a_plan_counts_windows(folder):
    checkpoint = open_checkpoint(folder)
    spec = build_spec(checkpoint)
    short, long = (plan.measure(checkpoint, spec, context, 2) for context in (4096, 65536))
    (_, none, any_number), (of_window, window, most) = short.caches
    assert (none, any_number, window) == (0, 0, WINDOW)
    others = (65536 - 4096) // EXTENT * short.caches[0][0]
    tables = long.state_bytes - short.state_bytes
    assert long.session_bytes - short.session_bytes == others + tables
    grown = short.session_bytes - short.state_bytes
    assert grown == 16 * short.caches[0][0] + most * of_window
    assert short.kv_bytes(4096) < short.kv_bytes(64) * 64 and short.kv_bytes(WINDOW) > 0
    # What is said to fit loads, but for the table of a longer context; more does not.
    memory = plan.minimum_bytes(short) + 20 * short.caches[0][0]
    longest = plan.longest_context(short, memory)
    assert longest == 4096 + 20 * EXTENT
    load = {"memory": memory, "threads": 2}
    assert moeflux.load(folder, context=longest - EXTENT, **load).session().context
    with pytest.raises(moeflux.MemoryBudgetError):
        moeflux.load(folder, context=longest + EXTENT, **load)
    assert plan.longest_context(short, plan.minimum_bytes(short) - grown + of_window) < EXTENT * 2


@pytest.mark.parametrize("n", [1000, 1024, 1300])
def test_going_back_as_far_as_the_window_is_held(folder, whole, n):
    session = moeflux.load(folder, **LOAD).session()
    session.step(TOKENS[:n])
    snapshot = session.save()
    assert not session.truncatable
    least = session.truncatable_to
    assert n - TAKEN_BACK - WINDOW - EXTENT <= least <= n - TAKEN_BACK
    for at in (least - 1, 1, WINDOW):
        with pytest.raises(moeflux.SessionError, match=f"from {least}, as far back as a sliding"):
            session.truncate(at)
    assert session.position == n
    for at in (n - TAKEN_BACK, least):
        session.truncate(at)
        assert session.position == at
        found = session.step(TOKENS[at : at + 30], all_logits=True)
        assert np.array_equal(found, whole[at : at + 30])
    session.restore(snapshot)
    assert session.position == n >= session.truncatable_to
    session.step(TOKENS[n : n + TAKEN_BACK])
    session.truncate(n)
    assert np.array_equal(session.step(TOKENS[n : n + 9], all_logits=True), whole[n : n + 9])
    session.truncate(0)
    assert session.truncatable_to == 0
    assert np.array_equal(session.step(TOKENS[:300]), whole[299])


@pytest.mark.parametrize("at", [700, 1024])
def test_forks_and_snapshots_hold_what_they_need(folder, whole, at, tmp_path):
    model = moeflux.load(folder, **LOAD)
    model.session().step(TOKENS)
    live = model.stats["live_bytes"]
    session = model.session()
    session.step(TOKENS[:at])
    snapshot, fork = session.save(), session.fork()
    of_window, of_others = windowed(session)
    assert sum(snapshot.extents.values()) <= 3 * of_window + at // EXTENT * of_others
    snapshot.write(tmp_path / "s", tokens=TOKENS[:at])
    session.step(TOKENS[:600])  # another way on: its windows pass what the others hold
    other = model.session()
    other.restore(snapshot)
    longer = moeflux.load(folder, **LOAD | {"context": 4096})
    again = longer.session()
    again.restore(moeflux.Snapshot.read(longer, tmp_path / "s"))
    assert (tmp_path / "s").stat().st_size < (at + 3 * EXTENT) * (of_window + of_others) / EXTENT
    for each in (fork, other, again):
        found = each.step(TOKENS[at:], all_logits=True)
        assert np.array_equal(found, whole[at:])
    del session, snapshot, fork, other, each
    assert model.stats["live_bytes"] == live


def test_a_draft_is_taken_back_without_a_snapshot(folder):
    model = moeflux.load(folder, **LOAD)
    prompt = (TOKENS[:40] * 20)[:780]
    options = {"max_tokens": 40, "seed": 1, "stop": []}
    plain = moeflux.generate(model, prompt, **options)
    assert moeflux.generate(model, prompt, draft="ngram", **options) == plain


def test_what_is_truncatable_anywhere_is_so_in_forks_and_restored(folder):
    """Of a context that 64 tokens taken back would see whole, and no more than those."""
    session = moeflux.load(folder, **(LOAD | {"context": 310})).session()
    session.step(TOKENS[:305])
    for other in (session, session.fork()):
        assert not other.truncatable and other.truncatable_to <= 305
    with pytest.raises(moeflux.SessionError):
        session.fork().truncate(10)
