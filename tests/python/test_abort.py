"""`Model.abort` ends what is in progress, in any thread; sessions are as before."""

import threading
import time

import numpy as np
import pytest

import moeflux
from oracle import build
from oracle.goldens import SOME_FAMILIES

PROMPT = [(7 * i + 1) % 250 for i in range(3000)]


@pytest.fixture(scope="module", params=SOME_FAMILIES)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("abort") / request.param
    build(path, family=request.param, form="mlx-q4", num_experts=24)
    return moeflux.load(path, memory="256MiB", context=4096, max_slots=9)


def aborted(model, call, *, n_threads=1):
    """Runs `call(thread)` in threads until each raises Interrupted; another thread aborts."""
    over, interrupted = [], []

    def work(thread):
        try:
            while not over:
                call(thread)
        except moeflux.Interrupted as error:
            interrupted.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(interrupted) < n_threads and time.monotonic() < deadline:
        time.sleep(0.02)
        model.abort()
    over.append(True)
    for thread in threads:
        thread.join()
    assert len(interrupted) == n_threads
    return interrupted


CALLS = {
    "step": lambda model, session: session.step(PROMPT),
    "step_batch": lambda model, session: model.step_batch(
        [(session, PROMPT), (model.session(), [1])]
    ),
    "score": lambda model, session: session.score(PROMPT),
}


@pytest.mark.parametrize("call", CALLS)
def test_sessions_are_as_before_and_the_next_call_is_undisturbed(model, call):
    session, fresh = model.session(), model.session()
    session.step([5, 6, 7])
    before = session.save()

    def run(_):
        session.restore(before)
        CALLS[call](model, session)

    (error,) = aborted(model, run)
    assert "abort" in str(error)
    assert session.position == 3
    fresh.step([5, 6, 7])
    assert np.array_equal(session.step(PROMPT[:100]), fresh.step(PROMPT[:100]))


def test_calls_that_wait_for_their_turn_end_too(model):
    sessions = [model.session() for _ in range(4)]

    def run(thread):
        sessions[thread].reset()
        sessions[thread].step(PROMPT)

    aborted(model, run, n_threads=4)
    assert [session.position for session in sessions] == [0] * 4
    expected = model.session().step([1, 2])
    assert all(np.array_equal(session.step([1, 2]), expected) for session in sessions)


def test_what_begins_later_is_not_touched(model):
    expected = model.session().step([1, 2, 3])
    for _ in range(3):
        model.abort()
        assert np.array_equal(model.session().step([1, 2, 3]), expected)
    assert len(list(moeflux.stream_generate(model, [1, 2], max_tokens=3))) > 0


def test_a_generation_that_has_begun_ends_at_its_next_step(model):
    options = {"max_tokens": 8, "logit_bias": {256: -np.inf}}
    expected = [part.token for part in moeflux.stream_generate(model, [1, 2], **options)]
    session = model.session()
    stream = moeflux.stream_generate(model, [1, 2], session=session, **options)
    shown = [next(stream).token, next(stream).token]
    model.abort()
    with pytest.raises(moeflux.Interrupted):
        next(stream)
    assert shown == expected[:2] and session.position == 4
    rest = moeflux.stream_generate(model, "", session=session, **options | {"max_tokens": 6})
    assert shown + [part.token for part in rest] == expected


def test_many_threads_abort_and_step_at_once(model):
    """Every call gives the right logits or Interrupted, whatever comes between."""
    expected = model.session().step(PROMPT[:200])
    over, wrong, outcomes = threading.Event(), [], []

    def step():
        session = model.session()
        while not over.is_set():
            try:
                if not np.array_equal(session.step(PROMPT[:200]), expected):
                    wrong.append("logits")
                outcomes.append(True)
                session.reset()
            except moeflux.Interrupted:
                outcomes.append(False)
                if session.position != 0:
                    wrong.append(session.position)

    def abort():
        random = np.random.default_rng()
        while not over.wait(random.uniform(0, 0.5)):
            model.abort()

    threads = [threading.Thread(target=work) for work in (step,) * 4 + (abort,) * 2]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(set(outcomes)) < 2 and not wrong and time.monotonic() < deadline:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong and set(outcomes) == {True, False}
