"""The KV cache grows by extents of 256 positions: no bit changes at their borders, and a session
takes of the budget what it holds."""

import threading

import numpy as np
import pytest

import moeflux
from oracle import Reference, build, goldens
from support import budget
from support.few import few

N = 600  # two extents and a part of a third
TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(8)).integers(0, 250, N)]
BORDERS = (255, 256, 257, 300, 511, 512, 513)
# Every expert is chosen: no choice between near equals stands between us and the reference.
SHAPE = {"num_experts": 6, "num_experts_per_tok": 6, "seed": 7}
FEW = {"memory": "256MiB", "context": N, "max_slots": 6, "threads": 2}  # experts come and go


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_next"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("growth") / request.param
    return build(path, family=request.param, form="mlx-q4", **SHAPE)


@pytest.fixture(scope="module")
def whole(folder):
    """Logits after every token of one prompt."""
    model = moeflux.load(folder, **FEW)
    logits = model.session().step(TOKENS, all_logits=True)
    assert model.stats["evictions"] > 0
    return logits


def test_logits_beyond_an_extent_equal_the_reference(folder, whole):
    n = 290
    expected = Reference(folder).forward(TOKENS[:n]).logits
    worst, _ = goldens.TOLERANCE[folder.name]
    assert np.abs(whole[250:n] - expected[250:]).max() <= worst


@pytest.mark.parametrize("cut", few(4, BORDERS))
def test_prompts_cut_at_a_border_have_the_bits_of_one(folder, whole, cut):
    session = moeflux.load(folder, **FEW).session()
    parts = [session.step(TOKENS[:cut], all_logits=True)]
    parts += [session.step([token], all_logits=True) for token in TOKENS[cut : cut + 3]]
    parts.append(session.step(TOKENS[cut + 3 :], all_logits=True))
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("precision", "kv"),
    [("bfloat16", None), ("int8", None), ("float32", "int8"), ("int8", "int8")],
)
def test_a_smaller_cache_has_the_same_bits_however_it_is_fed(folder, precision, kv):
    found = []
    for cuts in ([], [255, 257, 400]):
        session = moeflux.load(folder, precision=precision, kv=kv, **FEW).session()
        parts = np.split(np.array(TOKENS), cuts)
        found.append(np.concatenate([session.step(part, all_logits=True) for part in parts]))
    assert np.array_equal(*found)


@pytest.mark.parametrize(("kv", "worst"), [("float32", 0.0), ("bfloat16", 0.1), ("int8", 0.2)])
def test_a_cache_has_the_type_that_was_asked_for(folder, whole, kv, worst):
    model = moeflux.load(folder, kv=kv, **FEW)
    session = model.session()
    empty, one = session.bytes(0), session.bytes(1)
    off = np.abs(session.step(TOKENS[:300], all_logits=True) - whole[:300]).max()
    assert (0 < off < worst) if worst else off == 0
    assert model.stats["kv"] == kv
    # Of whole vectors of 16 numbers; of int8 a scale of 4 bytes beside each key and each value.
    shape = model.config
    width = {"float32": 4, "bfloat16": 2, "int8": 1}[kv] * (shape["head_dim"] + 15 & ~15)
    position = 2 * shape["num_key_value_heads"] * (width + 4 * (kv == "int8"))
    layers = {"qwen3_moe": shape["num_hidden_layers"], "qwen3_next": 1}[folder.name]
    assert one - empty >= 256 * layers * position > (one - empty) * 0.95
    snapshot = session.save()
    other = moeflux.load(folder, kv="bfloat16" if kv == "float32" else "float32", **FEW).session()
    with pytest.raises(moeflux.SessionError):
        other.restore(snapshot)


def test_a_device_has_no_cache_of_8_bits(folder):
    with pytest.raises(moeflux.FormatError, match="kv float32 or bfloat16 on device host"):
        moeflux.load(folder, kv="int8", device="host", **FEW)


def test_sessions_that_cross_borders_together_have_the_bits_of_each_alone(folder, whole):
    model = moeflux.load(folder, **FEW)
    sessions = [model.session() for _ in BORDERS]
    for session, at in zip(sessions, BORDERS, strict=True):
        session.step(TOKENS[: at - 1])
    batch = [(session, TOKENS[at - 1 : at + 2])
             for session, at in zip(sessions, BORDERS, strict=True)]  # fmt: skip
    for found, at in zip(model.step_batch(batch, all_logits=True), BORDERS, strict=True):
        assert np.array_equal(found, whole[at - 1 : at + 2])


@pytest.mark.parametrize("at", few(3, BORDERS))
def test_a_snapshot_at_a_border_is_gone_back_to_and_outlives_its_session(folder, whole, at):
    model = moeflux.load(folder, **FEW)
    session = model.session()
    session.step(TOKENS[:at])
    snapshot = session.save()
    session.step(TOKENS[:60])  # another way on, in the same extent
    session.restore(snapshot)
    assert session.position == at
    assert np.array_equal(session.step(TOKENS[at : at + 60], all_logits=True), whole[at : at + 60])
    session.reset()
    session.step(TOKENS[300:500])
    other = model.session()
    other.restore(snapshot)
    del snapshot
    assert np.array_equal(other.step(TOKENS[at:], all_logits=True), whole[at:])


@pytest.mark.parametrize("at", few(3, BORDERS))
def test_forks_of_forks_go_their_own_ways(folder, whole, at):
    model = moeflux.load(folder, **FEW)
    session = model.session()
    session.step(TOKENS[:at])
    one = session.fork()
    other = one.fork()
    assert one.position == other.position == at
    one.step(TOKENS[:60])
    assert np.array_equal(other.step(TOKENS[at : at + 60], all_logits=True), whole[at : at + 60])
    del session, one
    assert np.array_equal(other.step(TOKENS[at + 60 :], all_logits=True), whole[at + 60 :])


def test_forks_that_step_together_have_the_bits_of_one_and_leave_nothing(folder, whole):
    model = moeflux.load(folder, **FEW | {"max_slots": None})
    session = model.session()
    session.step(TOKENS)
    session.reset()
    session.step(TOKENS[:250])
    live = model.stats["live_bytes"]
    forks = [session.fork() for _ in range(8)]
    for found in model.step_batch([(fork, TOKENS[250:270]) for fork in forks]):
        assert np.array_equal(found, whole[269])
    assert model.stats["live_bytes"] > live
    del forks
    assert model.stats["live_bytes"] == live


def test_a_fork_has_the_routing_and_the_token_that_a_generation_showed_last(folder):
    model = moeflux.load(folder, **FEW)
    session = model.session(routing=moeflux.Routing(top_k=2))
    options = {"max_tokens": 5, "logit_bias": {256: -1e9}}
    moeflux.generate(model, TOKENS[:20], session=session, **options)
    other = session.fork()
    assert other.position == session.position == 25 and other.routing is session.routing
    assert moeflux.generate(model, "", session=other, **options) == moeflux.generate(
        model, "", session=session, **options
    )


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("cut") / "m", family="qwen3_moe", form="mlx-q4", **SHAPE)
    model = moeflux.load(path, **FEW)
    return model, model.session().step(TOKENS, all_logits=True)


@pytest.mark.parametrize("at", (1, *BORDERS))
@pytest.mark.parametrize("shared", [False, True])
def test_a_truncated_session_goes_on_as_one_that_never_went_further(attention, at, shared):
    model, whole = attention
    session = model.session()
    session.step(TOKENS[:530])
    snapshot = session.save() if shared else None
    session.truncate(min(at, 530))
    assert session.position == at
    assert np.array_equal(session.step(TOKENS[at : at + 9], all_logits=True), whole[at : at + 9])
    live = model.stats["live_bytes"]
    if shared:  # what was truncated is the snapshot's still
        other = model.session()
        other.restore(snapshot)
        assert np.array_equal(other.step(TOKENS[530:], all_logits=True), whole[530:])
    session.truncate(0)
    assert model.stats["live_bytes"] < live + (1 << 20) and session.position == 0


def test_truncating_to_what_is_not_held_is_refused(attention):
    model, _ = attention
    session = model.session()
    session.step(TOKENS[:20])
    assert session.truncatable
    session.truncate(20)
    for n in (-1, 21, None, 2**40):
        with pytest.raises(moeflux.SessionError, match=r"an integer in 0\.\.20"):
            session.truncate(n)
    assert session.position == 20


def test_recurrent_state_is_not_truncated(tmp_path):
    path = build(tmp_path / "m", family="qwen3_next", form="mlx-q4", **SHAPE)
    session = moeflux.load(path, **FEW).session()
    session.step(TOKENS[:20])
    assert not session.truncatable
    session.truncate(20)
    with pytest.raises(moeflux.SessionError, match="recurrent state"):
        session.truncate(19)
    assert session.position == 20
    session.truncate(0)
    assert session.position == 0


def test_a_truncation_without_room_leaves_the_session_as_it_was(attention, tmp_path):
    _, whole = attention
    path = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4", **SHAPE)
    memory = budget.smallest_budget(path, context=N, threads=2)
    model = moeflux.load(path, memory=memory, context=N, threads=2)
    session, crowd = model.session(), []
    session.step(TOKENS[:512])
    crowd.append(session.save())  # which takes nothing: both extents are shared
    session.step(TOKENS[512:530])
    with pytest.raises(moeflux.MemoryBudgetError):
        while True:
            crowd.append(model.session())
    with pytest.raises(moeflux.MemoryBudgetError, match="the KV cache of a session"):
        session.truncate(300)
    assert session.position == 530
    crowd.clear()
    session.truncate(300)
    assert np.array_equal(session.step(TOKENS[300:320], all_logits=True), whole[300:320])


def test_going_back_without_room_leaves_the_session_as_it_was(attention, tmp_path):
    _, whole = attention
    path = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4", **SHAPE)
    memory = budget.smallest_budget(path, context=N, threads=2) + (1 << 20)  # the snapshot
    model = moeflux.load(path, memory=memory, context=N, threads=2)
    session, crowd = model.session(), []
    session.step(TOKENS[:300])
    snapshot = session.save()
    session.reset()
    session.step(TOKENS[:20])
    with pytest.raises(moeflux.MemoryBudgetError):
        while True:
            crowd.append(model.session())
    with pytest.raises(moeflux.MemoryBudgetError, match="the KV cache of a session"):
        session.restore(snapshot)
    assert session.position == 20
    crowd.clear()
    session.restore(snapshot)
    assert np.array_equal(session.step(TOKENS[300:320], all_logits=True), whole[300:320])


def test_a_session_of_a_long_context_takes_what_it_holds(folder):
    context = 32_768
    model = moeflux.load(folder, memory="2GiB", context=context, threads=2)
    model.session().step(TOKENS)  # every expert is in memory now
    before, free = model.stats["live_bytes"], model.free_bytes
    session = model.session()
    for n in (0, 1, 255, 256, 257, N):
        if n > session.position:
            session.step(TOKENS[session.position : n])
        taken = model.stats["live_bytes"] - before
        assert taken == free - model.free_bytes == session.bytes(n)
    assert session.bytes(N) - session.bytes(0) == 3 * (session.bytes(1) - session.bytes(0))
    assert session.bytes(N) < session.bytes(context) / 20
    session.reset()
    assert model.stats["live_bytes"] - before == session.bytes(0)
    del session
    assert model.stats["live_bytes"] == before


def test_bytes_of_what_no_session_holds_are_refused(folder):
    session = moeflux.load(folder, **FEW).session()
    for n in (-1, N + 1, 2**40, 1.5, None):
        with pytest.raises(moeflux.SessionError, match=r"an integer in 0\.\.600"):
            session.bytes(n)


def test_the_smallest_budget_is_enough_for_one_session_of_the_whole_context(folder, whole):
    memory = budget.smallest_budget(folder, context=N, threads=2)
    model = moeflux.load(folder, memory=memory, context=N, threads=2)
    session, slots = model.session(), 0
    for at in range(0, N, 50):
        assert np.array_equal(session.step(TOKENS[at : at + 50])[None], whole[at + 49 : at + 50])
        stats = model.stats
        assert stats["live_bytes"] <= stats["peak_bytes"] <= memory
        slots = max(slots, stats["slots"])
    assert stats["slots"] < slots  # some were given back for the cache


def grow(path, memory, n_sessions):
    """Two sessions that grow in turn, then together: what is refused, and what was held then."""
    model = moeflux.load(path, memory=memory, context=N, threads=2)
    sessions = [model.session() for _ in range(n_sessions)]
    try:
        for at in range(0, N - 100, 100):
            for session in sessions:
                session.step(TOKENS[at : at + 100])
        model.step_batch([(session, TOKENS[N - 100 :]) for session in sessions])
    except moeflux.MemoryBudgetError as error:
        return model, sessions, budget.named(error)
    assert model.stats["peak_bytes"] <= memory
    return None


def test_a_cache_that_cannot_grow_fails_whole_and_names_the_budget_that_does(folder, whole):
    memory = budget.smallest_budget(folder, context=N, threads=2)
    refusals = 0
    while refused := grow(folder, memory, 2):
        refusals += 1
        model, sessions, named = refused
        positions = [session.position for session in sessions]
        live = model.stats["live_bytes"]
        needed = sum(session.bytes(N) - session.bytes(session.position) for session in sessions)
        assert model.free_bytes < needed
        with pytest.raises(moeflux.MemoryBudgetError, match="the KV cache of a step"):
            model.step_batch([(s, TOKENS[s.position :]) for s in sessions if s.position < N])
        assert [session.position for session in sessions] == positions
        assert model.stats["live_bytes"] <= live <= model.stats["memory_bytes"]
        at = positions[0]  # goes on when the other has gone
        sessions.pop().reset()
        assert np.array_equal(sessions[0].step(TOKENS[at:], all_logits=True), whole[at:])
        del model, sessions, refused
        assert grow(folder, named - 1, 2)[2] == named
        memory = named
    assert refusals > 0


def test_any_thread_may_ask_for_the_position_while_another_steps(folder):
    session = moeflux.load(folder, **FEW).session()
    seen, done = [0], threading.Event()

    def look():
        while not done.is_set():
            seen.append(session.position)

    looker = threading.Thread(target=look)
    looker.start()
    for at in range(0, 200, 20):
        session.step(TOKENS[at : at + 20])
    done.set()
    looker.join()
    assert seen == sorted(seen) and set(seen) <= set(range(0, 201, 20))
