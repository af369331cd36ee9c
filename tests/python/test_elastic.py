"""Budgets that change while a model is open: by hand, and those that follow the machine."""

import gc
import logging
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import moeflux
from moeflux import elastic, memory
from moeflux.elastic import next_budget
from moeflux.errors import FormatError, MemoryBudgetError
from oracle import build
from support import budget

TOKENS = list(range(1, 40))
SHAPE = {"num_experts": 16, "num_experts_per_tok": 2}
OPTIONS = {"context": 64, "threads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("m") / "m", "qwen3_next", "mlx-q4", seed=3, **SHAPE)


@pytest.fixture(autouse=True)
def steps_alone(sole_models, monkeypatch):
    """Only steps look, so that each look is where the test has it."""
    monkeypatch.setattr(elastic, "_start", lambda: None)


@pytest.fixture(scope="module")
def expected(folder):
    return moeflux.load(folder, memory="256MiB", **OPTIONS).session().step(TOKENS, all_logits=True)


def spare(model):
    """Bytes of slots beyond the fewest."""
    return model.free_bytes - (model.memory - model.stats["live_bytes"])


def test_a_smaller_budget_holds_at_once_and_changes_no_bit(folder, expected):
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    session = model.session()
    first = session.step(TOKENS[:20], all_logits=True)
    before = model.stats
    least = model._native.least_bytes()
    assert spare(model) > 0 and least < before["live_bytes"]
    model.memory = least
    after = model.stats
    assert after["live_bytes"] <= model.memory == least and after["slots"] < before["slots"]
    rest = session.step(TOKENS[20:], all_logits=True)
    assert np.array_equal(np.concatenate([first, rest]), expected)
    assert model.stats["live_bytes"] <= least
    model.memory = "256MiB"
    again = model.session()
    assert np.array_equal(again.step(TOKENS, all_logits=True), expected)
    assert model.stats["slots"] > after["slots"]


def test_the_least_budget_is_that_of_a_load_and_less_is_refused(folder):
    smallest = budget.smallest_budget(folder, **OPTIONS)
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    assert model._native.least_bytes() == smallest
    for wanted in (smallest - 1, 1):
        with pytest.raises(MemoryBudgetError, match=str(smallest)):
            model.memory = wanted
        assert model.memory == 256 << 20
    model.memory = smallest
    model.session().step(TOKENS)


def test_what_sessions_hold_is_not_taken(folder):
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    kept = [model.session() for _ in range(40)]
    for session in kept:
        session.step([1, 2])
    least = model._native.least_bytes()
    with pytest.raises(MemoryBudgetError, match=f"expected a budget of {least} bytes or more"):
        model.memory = least - 1
    model.memory = least
    del kept, session
    assert model._native.least_bytes() < least


def test_sizes_are_checked_as_those_of_load(folder):
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    for wrong in ("lots", -1, None, 0):
        with pytest.raises(FormatError, match="memory: expected"):
            model.memory = wrong
    with pytest.raises(MemoryBudgetError, match="more than this machine"):
        model.memory = 2**60


def test_while_another_thread_steps_it_waits_for_its_turn(folder, expected):
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    least, found = model._native.least_bytes(), []

    def steps():
        found.extend(model.session().step(TOKENS, all_logits=True) for _ in range(20))

    thread = threading.Thread(target=steps)
    thread.start()
    while thread.is_alive():
        for wanted in (least + (1 << 20), "256MiB"):
            model.memory = wanted
            assert model.stats["live_bytes"] <= model.memory
    thread.join()
    assert len(found) == 20 and all(np.array_equal(one, expected) for one in found)


G = 1 << 30
TABLE = [
    # budget, live, most, available, total, quiet: the next budget
    ((8 * G, 8 * G, 8 * G, 50 * G, 100 * G, 0), 8 * G),
    ((8 * G, 8 * G, 8 * G, 3 * G, 100 * G, 0), G),  # 10 of 100 shall be available
    ((8 * G, 5 * G, 8 * G, 3 * G, 100 * G, 0), 0),
    ((8 * G, 8 * G, 8 * G, 4 * G, 100 * G, 0), 8 * G),  # not short yet
    ((2 * G, 2 * G, 8 * G, 50 * G, 100 * G, 119), 2 * G),
    ((2 * G, 2 * G, 8 * G, 14 * G, 100 * G, 120), 4 * G),  # half of what can be spared
    ((2 * G, 2 * G, 8 * G, 90 * G, 100 * G, 120), 8 * G),
    ((2 * G, 2 * G, 8 * G, 9 * G, 100 * G, 999), 2 * G),
]


@pytest.mark.parametrize(("given", "wanted"), TABLE)
def test_what_a_look_leads_to(given, wanted):
    assert abs(next_budget(*given) - wanted) <= 1


def test_auto_gives_back_and_takes_again(folder, monkeypatch):
    total, available, now = memory.total_bytes(), [memory.total_bytes() // 2], [1000.0]
    monkeypatch.setattr(memory, "available_bytes", lambda: available[0])
    monkeypatch.setattr(elastic.time, "monotonic", lambda: now[0])
    model = moeflux.load(folder, memory="auto", **OPTIONS)
    most, session = model.memory, model.session()
    session.step(TOKENS[:4])
    slots = model.stats["slots"]
    now[0] += 2
    available[0] = total // 100
    session.step([5])
    assert model.memory == model._native.least_bytes() and model.stats["slots"] < slots
    now[0] += elastic.QUIET_S
    session.step([5])  # still short: the quiet begins here
    available[0] = total
    for seconds in (2, elastic.QUIET_S - 3):
        now[0] += seconds
        session.step([5])
        assert model.memory < most
    now[0] += 2
    session.step([5])
    assert model.memory == most
    with pytest.raises(MemoryBudgetError):
        model.memory = 1  # refused: it is followed as before
    now[0] += 2
    available[0] = 0
    session.step([5])
    assert model.memory < most
    model.memory = most  # by hand: nothing is followed any more
    now[0] += 2
    available[0] = 0
    session.step([5])
    assert model.memory == most


def test_a_budget_of_ones_own_follows_nothing(folder, monkeypatch):
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    monkeypatch.setattr(elastic, "LOOK_S", -1.0)
    model.session().step(TOKENS)
    assert model.memory == 256 << 20


def test_a_model_may_keep_what_it_holds(folder, monkeypatch):
    """Its own experts are no reason for a smaller "auto"."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 << 20)
    others = memory.promised_bytes()
    model = moeflux.load(folder, memory="64MiB", **OPTIONS)
    model.session().step(TOKENS[:1])
    held = model.stats["live_bytes"]
    assert memory.promised_bytes() > others  # of experts that it has not read yet
    model.memory = "auto"
    assert model.memory == int(((100 << 20) + held - others) * memory.HEAD_ROOM)


def test_sessions_grow_into_what_auto_gave_back(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "moeflux")
    available, now = [memory.total_bytes() // 2], [1000.0]
    monkeypatch.setattr(memory, "available_bytes", lambda: available[0])
    monkeypatch.setattr(elastic.time, "monotonic", lambda: now[0])
    model = moeflux.load(folder, memory="auto", context=4096, threads=2)
    most, sessions = model.memory, [model.session() for _ in range(3)]
    alone = [session.step([1, 2], all_logits=True) for session in sessions]
    now[0] += 2
    available[0] = 0
    model.step_batch([(session, [3]) for session in sessions])
    assert model.memory < most
    long = [n % 50 for n in range(3000)]
    logits = model.step_batch([(session, long) for session in sessions])
    assert model.memory == most and "a step needs them" in caplog.text
    assert len(alone) == 3 and all(np.array_equal(row, logits[0]) for row in logits)


def test_a_load_does_not_wait_for_another_models_turn(folder, monkeypatch):
    model = moeflux.load(folder, memory="256MiB", **OPTIONS)
    with memory.change(model._native, "200MiB", None), memory.promise(lambda: 5) as nbytes:
        thread = threading.Thread(target=lambda: memory.promised_bytes())
        thread.start()
        thread.join(10)
        assert nbytes == 5 and not thread.is_alive()


def until(holds):
    """Waits for what a thread does."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "moeflux-memory"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is available")
def test_models_at_rest_give_back_and_one_thread_looks_after_them(folder, monkeypatch):
    monkeypatch.undo()
    available = [memory.total_bytes() // 2]
    odd = [ValueError("what the system tells is no number")] * 3

    def available_bytes():
        if odd and threading.current_thread() in watchers():
            raise odd.pop()
        return available[0]

    monkeypatch.setattr(memory, "available_bytes", available_bytes)
    monkeypatch.setattr(elastic, "LOOK_S", 0.01)
    models = [moeflux.load(folder, memory="auto", **OPTIONS) for _ in range(2)]
    own = moeflux.load(folder, memory="256MiB", **OPTIONS)
    sessions = [model.session() for model in (*models, own)]
    for session in sessions:
        session.step(TOKENS)
    slots = own.stats["slots"]
    until(lambda: not odd)
    assert len(watchers()) == 1 and all(model.stats["slots"] == slots for model in models)
    available[0] = 0
    for model in models:
        until(lambda model=model: model.memory == model._native.least_bytes())
    assert all(model.stats["slots"] < slots for model in models)
    assert own.stats["slots"] == slots and own.memory == 256 << 20
    models[0].memory = 128 << 20  # from now on nobody changes it
    follower = elastic._followers[models[1]._native]
    looked = follower._looked
    until(lambda one=follower: one._looked > looked + 0.05)
    assert models[0].memory == 128 << 20
    logits = [session.step([7]) for session in sessions]
    assert all(np.array_equal(one, logits[2]) for one in logits)
    del models, model, own, session, sessions, follower
    gc.collect()  # models that other tests left in cycles
    until(lambda: not elastic._followers and not watchers())


ENDS = """
import os, sys, time
import moeflux
from moeflux import elastic, memory
elastic.LOOK_S = 0.0001
model = moeflux.load(sys.argv[1], memory="auto", context=64, threads=2)
session = model.session()
session.step([1, 2, 3])
memory.available_bytes = lambda: 0
time.sleep(0.05)
for _ in range(2):
    child = os.fork()
    if child == 0:
        assert not elastic._followers and elastic._watcher is None
        with elastic._lock:
            sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert elastic._watcher is not None and model.memory == model._native.least_bytes()
session.step([4])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is available")
def test_a_process_forks_and_ends_while_its_models_are_looked_after(folder):
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", ENDS, os.fspath(folder)], timeout=60,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
