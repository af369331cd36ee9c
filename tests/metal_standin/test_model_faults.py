"""A model on Metal when the system fails it: typed errors, the session is as before the step, the
same call afterwards gives the undisturbed result, and nothing leaks."""

import numpy as np
import pytest

import moeflux as mf
from metal_standin.standin import clear_faults, inject, live_objects
from oracle import build

STEPS = ([3, 1, 4, 1, 5, 9, 2, 6, 5], [35], [89], [79])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "m"
    return build(path, family="qwen3_next", form="mlx-q4", seed=7, num_experts=12,
                 num_experts_per_tok=3)  # fmt: skip


def load(folder):
    return mf.load(folder, memory="64MiB", context=64, device="metal", max_slots=4)


def run(session):
    """Logits of all steps, and how often one failed."""
    out, failures = [], 0
    for tokens in STEPS:
        position = session.position
        try:
            logits = session.step(tokens, all_logits=True)
        except mf.GpuError:
            failures += 1
            assert session.position == position
            logits = session.step(tokens, all_logits=True)
        out.append(logits)
    return np.concatenate(out), failures


@pytest.fixture(scope="module")
def expected(folder):
    logits, failures = run(load(folder).session())
    assert failures == 0 and np.isfinite(logits).all()
    return logits


@pytest.mark.parametrize("after", (0, 1, 6, 13))
@pytest.mark.parametrize("fault", ["command_buffer", "encoder", "execution", "interactivity"])
def test_a_fault_during_a_step_leaves_the_session_and_the_repeat_is_exact(
    folder, expected, fault, after
):
    session = load(folder).session()
    inject(fault, after)
    logits, failures = run(session)
    assert failures == 1
    assert np.array_equal(logits, expected)


# Kernels are compiled by load, all of them.
@pytest.mark.parametrize(
    ("fault", "after"),
    [("buffer", n) for n in (0, 3, 10, 40)]
    + [(f, n) for f in ("function", "pipeline", "simd_width") for n in (0, 3, 10, 20)]
    + [("library", 0)],  # once
)
def test_a_load_that_the_device_fails_is_typed_leaks_nothing_and_can_be_tried_again(
    folder, expected, fault, after
):
    before = live_objects()
    inject(fault, after)
    with pytest.raises(mf.GpuError):
        load(folder)
    assert live_objects() == before
    clear_faults()
    logits, failures = run(load(folder).session())
    assert failures == 0 and np.array_equal(logits, expected)


def test_a_slot_that_the_device_refuses_is_anothers(folder, expected):
    session = mf.load(folder, memory="64MiB", context=64, device="metal").session()
    inject("buffer", 1)
    logits, failures = run(session)
    assert failures == 0 and np.array_equal(logits, expected)


def test_a_budget_above_the_working_set_is_refused_and_auto_stays_below(folder):
    advised = mf.Backend("metal").limits.working_set_bytes
    assert advised > 0
    with pytest.raises(mf.MemoryBudgetError, match=str(advised)):
        mf.load(folder, memory=advised + 1, context=64, device="metal")
    model = mf.load(folder, context=64, device="metal")
    assert model.stats["memory_bytes"] <= advised
