"""Sampling against the plain formulas, in float64."""

import numpy as np
import pytest

import moeflux
from moeflux.sampling import Sampler, SamplingParams, keep, log_softmax

LOGITS = np.random.Generator(np.random.PCG64(1)).normal(0, 2, 50).astype(np.float32)


def softmax(x):
    e = np.exp(np.asarray(x, dtype=np.float64) - np.max(x))
    return e / e.sum()


def draws(params, n=4000, logits=LOGITS):
    sampler = Sampler(params)
    adjusted = sampler.adjust(logits, [])
    return np.bincount([sampler.choose(adjusted) for _ in range(n)], minlength=len(logits)) / n


def test_greedy_takes_the_best_and_the_lowest_id_of_equals():
    assert Sampler(SamplingParams()).choose(LOGITS) == int(np.argmax(LOGITS))
    assert Sampler(SamplingParams()).choose(np.array([0.0, 3.0, 3.0])) == 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_softmax(temperature):
    got = draws(SamplingParams(temperature=temperature, seed=2))
    expected = softmax(LOGITS.astype(np.float64) / temperature)
    assert np.abs(got - expected).max() < 5 * np.sqrt(0.25 / 4000)


def test_top_k_keeps_exactly_the_k_best():
    kept = keep(softmax(LOGITS), SamplingParams(temperature=1, top_k=5))
    assert set(np.flatnonzero(kept)) == set(np.argsort(-LOGITS)[:5])
    assert kept.sum() == pytest.approx(1)
    assert set(np.flatnonzero(draws(SamplingParams(temperature=1, top_k=5, seed=1)))) <= set(
        np.flatnonzero(kept)
    )


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probability = softmax(LOGITS)
    kept = keep(probability, SamplingParams(temperature=1, top_p=0.7))
    inside = probability[kept > 0]
    assert inside.sum() >= 0.7 > inside.sum() - inside.min()


def test_min_p_is_relative_to_the_best():
    probability = softmax(LOGITS)
    kept = keep(probability, SamplingParams(temperature=1, min_p=0.2))
    assert np.array_equal(kept > 0, probability >= 0.2 * probability.max())


def test_filters_always_leave_one_token():
    for options in ({"top_p": 1e-9}, {"top_k": 1}, {"min_p": 1.0}):
        kept = keep(softmax(LOGITS), SamplingParams(temperature=1, **options))
        assert np.count_nonzero(kept) == 1 and np.argmax(kept) == np.argmax(LOGITS)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    logits = np.array([2.0, -2.0, 1.0, -1.0])
    adjusted = Sampler(SamplingParams(repetition_penalty=2.0)).adjust(logits, [0, 1, 1])
    assert adjusted.tolist() == [1.0, -4.0, 1.0, -1.0]


def test_logit_bias_is_added_and_foreign_ids_are_refused():
    sampler = Sampler(SamplingParams(logit_bias={3: 100.0}))
    assert sampler.choose(sampler.adjust(LOGITS, [])) == 3
    with pytest.raises(moeflux.SessionError, match="50"):
        Sampler(SamplingParams(logit_bias={50: 1.0})).adjust(LOGITS, [])


def test_the_same_seed_gives_the_same_tokens():
    params = SamplingParams(temperature=1.0, seed=7)
    assert np.array_equal(draws(params, 200), draws(params, 200))
    assert not np.array_equal(
        draws(params, 200), draws(SamplingParams(temperature=1.0, seed=8), 200)
    )


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0},
     {"top_p": 1.5}, {"min_p": -0.1}, {"repetition_penalty": 0}],
)  # fmt: skip
def test_senseless_parameters_are_refused(bad):
    with pytest.raises(moeflux.SessionError, match="expected"):
        SamplingParams(**bad)


def test_log_softmax_sums_to_one():
    assert np.exp(log_softmax(LOGITS.astype(np.float64))).sum() == pytest.approx(1)
