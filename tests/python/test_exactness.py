"""The exactness contract: bit-equal logits whatever the cache, threads, reads and layout.

Every comparison also asserts that experts were really read, so that none can pass by accident.
"""

import numpy as np
import pytest

import moeflux
from oracle import build
from oracle.goldens import SOME_FAMILIES
from support.budget import smallest_budget

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 75)]
SHAPE = {"num_experts": 12, "num_experts_per_tok": 3}


@pytest.fixture(scope="module", params=SOME_FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("exact") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


def run(path, *, tokens=TOKENS, chunks=(40, 20, 14, 1), **options):
    """Logits after every token, fed in pieces, and the model's stats; reads on demand alone."""
    defaults = {"memory": "256MiB", "context": 128, "read_ahead": False}
    model = moeflux.load(path, **defaults | options)
    session, out, at = model.session(), [], 0
    for size in chunks:
        out.append(session.step(tokens[at : at + size], all_logits=True))
        at += size
    return np.concatenate(out), model.stats


@pytest.fixture(scope="module")
def resident(folder):
    logits, stats = run(folder)
    assert stats["evictions"] == 0 and stats["misses"] > 0
    assert np.isfinite(logits).all()
    return logits, stats


def expert_bytes(stats):
    return stats["bytes_read"] / stats["misses"]


def cycle(folder):
    """Slots that hold one token's experts in every layer."""
    model = moeflux.load(folder, memory="256MiB", context=128)
    experts = model.session().step(TOKENS[:1], capture={"experts"})["experts"]
    return int((experts >= 0).sum())


@pytest.mark.parametrize("slots", ["minimum", "cycle - 1", "cycle", "cycle + 1", "all"])
def test_logits_are_bit_equal_for_every_slot_count(folder, resident, slots):
    count = {"minimum": 3, "all": 10**6}.get(slots)
    if count is None:
        count = cycle(folder) + {"cycle - 1": -1, "cycle": 0, "cycle + 1": 1}[slots]
    logits, stats = run(folder, max_slots=count)
    assert np.array_equal(logits, resident[0])
    assert stats["slots"] <= max(count, 3)
    assert stats["bytes_read"] == stats["misses"] * expert_bytes(resident[1])
    if slots != "all":
        assert stats["misses"] > resident[1]["misses"]


@pytest.mark.parametrize("slots", [3, 24])
def test_reading_ahead_changes_no_bit_and_says_what_it_read(folder, resident, slots):
    logits, stats = run(
        folder, chunks=(5, *[1] * (len(TOKENS) - 5)), max_slots=slots, read_ahead=True
    )
    assert np.array_equal(logits, resident[0])
    assert stats["misses"] > 0 and stats["ahead_used"] <= stats["ahead_reads"]
    wasted = stats["ahead_reads"] - stats["ahead_used"]
    n_read = stats["bytes_read"] / expert_bytes(resident[1])
    # A read still under way at the end, or one nobody waited for, is not in the bytes yet.
    assert stats["misses"] <= n_read <= stats["misses"] + wasted
    if slots > 3:
        assert stats["ahead_used"] > 0


def test_smallest_allowed_budget_is_bit_equal_and_one_byte_less_is_refused(folder, resident):
    memory = smallest_budget(folder, context=128)
    logits, stats = run(folder, memory=memory)
    assert np.array_equal(logits, resident[0])
    assert stats["evictions"] > 0 and stats["peak_bytes"] <= memory
    with pytest.raises(moeflux.MemoryBudgetError, match=str(memory)):
        moeflux.load(folder, memory=memory - 1, context=128)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_logits_are_bit_equal_for_every_thread_count(folder, resident, threads):
    logits, stats = run(folder, threads=threads, max_slots=4)
    assert np.array_equal(logits, resident[0])
    assert stats["misses"] > resident[1]["misses"]


def test_buffered_and_direct_reads_are_bit_equal(folder, resident):
    logits, stats = run(folder, direct_io=False, max_slots=4)
    assert stats["read_mode"] == "buffered"
    assert np.array_equal(logits, resident[0])


def test_reads_on_demand_are_the_same_in_every_load(folder):
    counters = ("hits", "misses", "evictions", "bytes_read")
    kept, seen = [], set()
    for n in range(6):
        kept.append(bytearray(4096 * n + 80))  # so that slots come to lie elsewhere
        _, stats = run(folder, threads=1, max_slots=SHAPE["num_experts"] + 3)
        assert stats["evictions"] > 0
        seen.add(tuple(stats[name] for name in counters))
    assert len(seen) == 1


@pytest.mark.parametrize("experts", ["split", "fused"])
def test_expert_layouts_are_bit_equal(tmp_path, experts):
    options = {"family": "qwen3_moe", "form": "hf-bf16", "seed": 3, **SHAPE}
    one, _ = run(build(tmp_path / "hub", **options), max_slots=3)
    other, stats = run(build(tmp_path / "other", experts=experts, **options), max_slots=3)
    assert np.array_equal(one, other) and stats["misses"] > 0


def test_one_file_and_many_shards_are_bit_equal(tmp_path):
    options = {"family": "qwen3_next", "form": "mlx-q4", "seed": 3, **SHAPE}
    one, _ = run(build(tmp_path / "one", shards=1, **options))
    many, _ = run(build(tmp_path / "many", shards=5, **options))
    assert np.array_equal(one, many)


def test_repeated_runs_are_bit_equal(folder, resident):
    for _ in range(3):
        assert np.array_equal(run(folder, max_slots=5)[0], resident[0])


def test_feeding_token_by_token_is_bit_equal_to_one_prompt(folder, resident):
    """Stronger than the contract, which allows a tolerance over chunk sizes."""
    logits, _ = run(folder, chunks=(1,) * len(TOKENS))
    assert np.array_equal(logits, resident[0])


def test_two_sessions_interleaved_equal_two_alone(folder, resident):
    model = moeflux.load(folder, memory="256MiB", context=128, max_slots=4)
    one, other = model.session(), model.session()
    out = []
    for token, noise in zip(TOKENS, reversed(TOKENS), strict=True):
        out.append(one.step([token]))
        other.step([noise])
    assert np.array_equal(np.stack(out), resident[0])


def test_two_models_of_different_shape_in_one_process(tmp_path, folder, resident):
    other_path = build(tmp_path / "other", family="qwen3_moe", form="hf-bf16", seed=1,
                       num_experts=6, num_experts_per_tok=2)  # fmt: skip
    alone, _ = run(other_path)
    first = moeflux.load(folder, memory="256MiB", context=128)
    second = moeflux.load(other_path, memory="256MiB", context=128)
    sessions = first.session(), second.session()
    pairs = [(sessions[0].step([t]), sessions[1].step([t])) for t in TOKENS]
    assert np.array_equal(np.stack([a for a, _ in pairs]), resident[0])
    assert np.array_equal(np.stack([b for _, b in pairs]), alone)
    del first, sessions
    assert np.isfinite(second.session().step(TOKENS[:3])).all()


def test_snapshot_and_restore_equal_replay(folder, resident):
    model = moeflux.load(folder, memory="256MiB", context=128, max_slots=4)
    session = model.session()
    session.step(TOKENS[:50])
    snapshot = session.save()
    first = session.step(TOKENS[50:], all_logits=True)
    session.restore(snapshot)
    assert session.position == 50
    assert np.array_equal(session.step(TOKENS[50:], all_logits=True), first)
    assert np.array_equal(first, resident[0][50:])
    fresh = model.session()
    fresh.restore(snapshot)
    assert np.array_equal(fresh.step(TOKENS[50:], all_logits=True), first)


def test_reset_forgets_everything(folder, resident):
    model = moeflux.load(folder, memory="256MiB", context=128)
    session = model.session()
    session.step(list(reversed(TOKENS)))
    session.reset()
    assert np.array_equal(session.step(TOKENS, all_logits=True), resident[0])


@pytest.mark.parametrize("k", [1, 4, 8, 10, 16])
def test_every_top_k_routes_that_many_experts(tmp_path, k):
    path = build(tmp_path / "m", family="qwen3_moe", form="hf-bf16", num_experts=16,
                 num_experts_per_tok=k)  # fmt: skip
    model = moeflux.load(path, memory="256MiB", context=64)
    experts = model.session().step(TOKENS[:9], capture={"experts"})["experts"]
    assert experts.shape[-1] == k
    assert all(len(set(row)) == k and min(row) >= 0 for row in experts.reshape(-1, k))


def test_zeroed_expert_bytes_change_the_logits(tmp_path):
    """So that the tests above cannot pass with experts that are never used."""
    from moeflux.checkpoint import open_checkpoint

    path = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4", seed=2, **SHAPE)
    model = moeflux.load(path, memory="256MiB", context=128)
    out = model.session().step(TOKENS, all_logits=True, capture={"experts"})
    layer, expert = 1, int(out["experts"][0, 1, 0])
    checkpoint = open_checkpoint(path)
    name = f"model.layers.{layer}.mlp.switch_mlp.down_proj"
    for part in ("weight", "scales", "biases"):
        tensor = checkpoint.tensors[f"{name}.{part}"]
        size = tensor.nbytes // tensor.shape[0]
        with checkpoint.files[tensor.file].open("r+b") as stream:
            stream.seek(tensor.offset + expert * size)
            stream.write(bytes(size))
    changed, _ = run(path)
    assert not np.array_equal(changed[0], out["logits"][0])


def test_a_snapshot_of_a_reset_session_is_empty(folder, resident):
    session = moeflux.load(folder, memory="256MiB", context=128).session()
    session.step(list(reversed(TOKENS)))
    session.reset()
    session.restore(session.save())
    assert np.array_equal(session.step(TOKENS, all_logits=True), resident[0])


@pytest.mark.parametrize("slots", [-1, 0, 1, 2])
def test_fewer_slots_than_three_are_refused_and_more_than_there_are_is_all(folder, resident, slots):
    with pytest.raises(moeflux.FormatError, match="max_slots"):
        moeflux.load(folder, memory="256MiB", context=128, max_slots=slots)
    model = moeflux.load(folder, memory="256MiB", context=128, max_slots=2**40)
    assert model.stats["max_slots"] == resident[1]["max_slots"]
