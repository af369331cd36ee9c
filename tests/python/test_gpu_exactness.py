"""On a device, too, logits are bit-equal whatever the slots, the budget, the reads, the repetition.

Chunks are the same in all runs: over them the promise is a tolerance (test_gpu_goldens.py).
"""

import numpy as np
import pytest

import moeflux
from oracle import build
from support.budget import smallest_budget
from support.devices import DEVICES

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(0, 250, 31)]
CHUNKS = (17, 11, 1, 1, 1)
SHAPE = {"num_experts": 12, "num_experts_per_tok": 3}


@pytest.fixture(
    scope="module", params=[(d, f) for d in DEVICES for f in ("qwen3_moe", "qwen3_next")]
)
def model_on(request, tmp_path_factory):
    device, family = request.param
    path = tmp_path_factory.mktemp("gpu_exact") / family
    return build(path, family=family, form="mlx-q4", seed=7, **SHAPE), device


def run(model_on, **options):
    """Logits after every token and the model's stats."""
    path, device = model_on
    model = moeflux.load(path, **{"memory": "256MiB", "context": 64, "device": device} | options)
    session, out, at = model.session(), [], 0
    for size in CHUNKS:
        out.append(session.step(TOKENS[at : at + size], all_logits=True))
        at += size
    return np.concatenate(out), model.stats


@pytest.fixture(scope="module")
def resident(model_on):
    logits, stats = run(model_on)
    assert stats["evictions"] == 0 and stats["misses"] > 0 and np.isfinite(logits).all()
    return logits, stats


@pytest.mark.parametrize(
    "options",
    [{"max_slots": 3}, {"max_slots": 5}, {"max_slots": 4, "direct_io": False}, {}],
    ids=str,
)
def test_logits_are_bit_equal_over_slots_reads_and_runs(model_on, resident, options):
    logits, stats = run(model_on, **options)
    assert np.array_equal(logits, resident[0])
    if options:
        assert stats["misses"] > resident[1]["misses"]


def test_logits_are_bit_equal_under_the_smallest_budget(model_on, resident):
    path, device = model_on
    memory = smallest_budget(path, context=64, device=device)
    logits, stats = run(model_on, memory=memory)
    assert np.array_equal(logits, resident[0])
    assert stats["evictions"] > 0 and stats["peak_bytes"] <= memory


def test_a_step_that_is_done_again_after_a_snapshot_is_bit_equal(model_on, resident):
    path, device = model_on
    model = moeflux.load(path, memory="256MiB", context=64, device=device, max_slots=4)
    session = model.session()
    session.step(TOKENS[:17])
    snapshot = session.save()
    once = session.step(TOKENS[17:28], all_logits=True)
    session.restore(snapshot)
    assert np.array_equal(session.step(TOKENS[17:28], all_logits=True), once)
    assert np.array_equal(once, resident[0][17:28])


def test_sessions_in_one_batch_are_near_those_alone(model_on, resident):
    """Rows of a batch go through tiled products, a row alone through a matvec: near, not equal."""
    path, device = model_on
    model = moeflux.load(path, memory="256MiB", context=64, device=device, max_slots=4)
    sessions = [model.session() for _ in range(3)]
    for session in sessions:
        session.step(TOKENS[:17])
    batch = model.step_batch([(session, TOKENS[17:19]) for session in sessions[:2]]
                             + [(sessions[2], TOKENS[17:18])])  # fmt: skip
    for logits, at in zip(batch, (18, 18, 17), strict=True):
        np.testing.assert_allclose(logits, resident[0][at], atol=5e-4)
