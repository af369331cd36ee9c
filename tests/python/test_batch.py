"""Several sequences in one step: bits of single steps, each expert read once, all or nothing."""

import os
import threading

import numpy as np
import pytest

import moeflux
from oracle import build
from oracle.goldens import SOME_FAMILIES
from support.few import few

SHAPE = {"num_experts": 24, "num_experts_per_tok": 3}
OPTIONS = {"memory": "256MiB", "context": 256}


def ids(n, seed):
    return [int(t) for t in np.random.Generator(np.random.PCG64(seed)).integers(0, 250, n)]


@pytest.fixture(scope="module", params=SOME_FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("batch") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            np.array_equal(one[key], other[key], equal_nan=True) for key in one
        )
    return np.array_equal(one, other)


# (tokens a session has, tokens it gets): decode beside prompts shorter and longer than a pass
MIXES = {
    "decode": [(5, 1), (1, 1), (70, 1), (64, 1)],
    "decode beside prefill": [(5, 1), (0, 150), (63, 1), (3, 40), (0, 65)],
    "prefill": [(0, 64), (0, 64), (10, 100)],
    "more sessions than rows of a pass": [(0, 2)] * 70,
}


@pytest.mark.parametrize("slots", few(1, [3, None]))
@pytest.mark.parametrize("mix", MIXES)
def test_a_batch_has_the_bits_of_single_steps(folder, mix, slots):
    model = moeflux.load(folder, max_slots=slots, **OPTIONS)
    expected, batch = [], []
    for seed, (before, n) in enumerate(MIXES[mix]):
        tokens = ids(before + n, seed)
        alone, together = model.session(), model.session()
        for session in (alone, together):
            if before:
                session.step(tokens[:before])
        expected.append(alone.step(tokens[before:], all_logits=True))
        batch.append((together, tokens[before:]))
    assert model.stats["misses"] > 0
    found = model.step_batch(batch, all_logits=True)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert [session.position for session, _ in batch] == [b + n for b, n in MIXES[mix]]
    again = model.step_batch([(session, [1]) for session, _ in batch])  # state is right as well
    lone = model.session()
    before, n = MIXES[mix][-1]
    lone.step(ids(before + n, len(MIXES[mix]) - 1))
    assert np.array_equal(lone.step([1]), again[-1])


def test_captures_are_those_of_single_steps(folder):
    model = moeflux.load(folder, **OPTIONS)
    names = {"router", "experts", "hidden"}
    mix = [ids(80, 1), ids(1, 2), ids(30, 3)]
    expected = [model.session().step(tokens, capture=names) for tokens in mix]
    found = model.step_batch([(model.session(), tokens) for tokens in mix], capture=names)
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_eight_sequences_read_the_union_of_their_experts_once(folder):
    """Bytes of one batched token each, on a store that holds few experts, against the union."""
    slots = 4
    model = moeflux.load(folder, max_slots=slots, **OPTIONS)
    sessions = [model.session() for _ in range(8)]
    for seed, session in enumerate(sessions):
        session.step(ids(9, seed))
    before = model.stats
    found = model.step_batch(
        [(session, [17 * i % 250]) for i, session in enumerate(sessions)], capture={"experts"}
    )
    after = model.stats
    experts = np.stack([out["experts"][0] for out in found])  # (8, layers, k)
    experts = experts[:, (experts[0] >= 0).any(axis=-1)]  # a dense layer has none
    union = sum(len(np.unique(experts[:, layer])) for layer in range(experts.shape[1]))
    expert_bytes = before["bytes_read"] // before["misses"]
    read = after["bytes_read"] - before["bytes_read"]
    assert union > 2 * slots * experts.shape[1] > 0, "the store must be too small for the union"
    assert read <= 1.1 * union * expert_bytes
    assert read >= (union - slots * experts.shape[1]) * expert_bytes
    apart = model.stats["bytes_read"]
    for i, session in enumerate(sessions):
        session.step([(17 * i + 3) % 250])
    assert model.stats["bytes_read"] - apart > 1.2 * read


def test_a_pass_shares_its_rows_and_decode_waits_for_none(folder):
    model = moeflux.load(folder, **OPTIONS)
    one, two, decode = (model.session() for _ in range(3))
    decode.step([1])
    before = model.stats["passes"]
    model.step_batch([(one, ids(63, 1)), (decode, [5]), (two, ids(64, 2))])
    # Passes of 64 rows: 31 + 1 + 32, then what is left.
    assert model.stats["passes"] - before == 2
    assert model.stats["steps"] == 2


def test_sessions_twice_or_of_another_model_or_of_no_model_are_refused(folder, tmp_path):
    model, other = moeflux.load(folder, **OPTIONS), moeflux.load(folder, **OPTIONS)
    session, stranger = model.session(), other.session()
    for batch, reason in [
        ([(session, [1]), (session, [2])], "twice"),
        ([(session, [1]), (stranger, [2])], "another model"),
        ([(session, [1]), ("no session", [2])], "pairs of a session"),
        ([(session, [1]), (model.session(), [])], "at least one token"),
        ([(session, [1]), (model.session(), [10**6])], "below"),
        ([(session, [1]), (model.session(), [1.5])], "token ids"),
        ([(session, [1]), (model.session(), [1] * 257)], "context"),
        ([(session, [1]), (model.session(), np.ones((2, 2), int))], "token ids"),
    ]:
        with pytest.raises(moeflux.SessionError, match=reason):
            model.step_batch(batch)
    assert session.position == stranger.position == 0
    assert model.stats["tokens"] == 0
    assert model.step_batch([]) == []


def test_a_read_error_leaves_every_session_as_before(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    model = moeflux.load(tmp_path, max_slots=4, **OPTIONS)
    sessions = [model.session() for _ in range(3)]
    work = [ids(1, 1), ids(100, 2), ids(30, 3)]
    for session in sessions:
        session.step([7, 8, 9])
    shards = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    for path in shards:
        os.truncate(path, 5000)
    with pytest.raises(moeflux.IoError, match="safetensors"):
        model.step_batch(zip(sessions, work, strict=True))
    assert [session.position for session in sessions] == [3, 3, 3]
    for path, content in shards.items():
        with path.open("r+b") as stream:
            stream.write(content)
    again = model.step_batch(zip(sessions, work, strict=True), all_logits=True)
    for logits, tokens in zip(again, work, strict=True):
        fresh = model.session()
        fresh.step([7, 8, 9])
        assert np.array_equal(fresh.step(tokens, all_logits=True), logits)


def test_batches_of_two_threads_take_turns(folder):
    model = moeflux.load(folder, max_slots=5, **OPTIONS)
    expected = model.session().step(ids(50, 1))
    found = []

    def work():
        batch = [(model.session(), ids(50, 1)) for _ in range(3)]
        found.extend(model.step_batch(batch))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 9 and all(np.array_equal(logits, expected) for logits in found)
