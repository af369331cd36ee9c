"""Sampling against the plain formulas, in float64."""

import numpy as np
import pytest

import moeflux
from moeflux.sampling import FIRST_RANKED, Sampler, SamplingParams, keep, largest, log_softmax

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
    for bias in (float("nan"), float("inf")):
        with pytest.raises(moeflux.SessionError, match="finite"):
            Sampler(SamplingParams(logit_bias={3: bias})).adjust(LOGITS, [])


def test_a_bias_of_minus_infinity_forbids_a_token():
    best = int(np.argmax(LOGITS))
    for params in (SamplingParams(logit_bias={best: -np.inf}),
                   SamplingParams(temperature=1, seed=1, logit_bias={best: -np.inf})):  # fmt: skip
        sampler = Sampler(params)
        adjusted = sampler.adjust(LOGITS, [])
        assert best not in {sampler.choose(adjusted) for _ in range(200)}


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


def kept_by_a_sort(probability, params):
    """What the filters keep, said with a sort of everything."""
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    rank = np.arange(ranked.size)
    kept = (rank < (params.top_k or ranked.size)) & (ranked >= params.min_p * ranked[0])
    if params.top_p < 1:
        total = ranked[: params.top_k].sum() if params.top_k else 1.0
        kept &= np.cumsum(ranked) - ranked < params.top_p * total
    kept[0] = True
    out = np.zeros_like(probability)
    out[order[kept]] = ranked[kept]
    return out / out.sum()


def warped(logits, top_k, top_p, min_p):
    """transformers' warpers one after the other, as its documentation tells them: -inf is out."""
    scores = logits.copy()
    if top_k:  # TopKLogitsWarper: what is below the k-th highest
        scores[scores < np.sort(scores)[-min(top_k, scores.size)]] = -np.inf
    if (
        top_p < 1
    ):  # TopPLogitsWarper: the least likely that sum to at most 1 - top_p; never the best
        order = np.argsort(scores, kind="stable")
        cumulative = np.cumsum(softmax(scores)[order])
        scores[order[:-1][cumulative[:-1] <= 1 - top_p]] = -np.inf
    if min_p:  # MinPLogitsWarper: what is below this share of the best one's probability
        probability = softmax(scores)
        scores[probability < min_p * probability.max()] = -np.inf
    return scores


def test_filters_together_keep_what_transformers_keeps():
    random = np.random.Generator(np.random.PCG64(5))
    for _ in range(3000):
        logits = random.normal(0, random.choice([0.3, 1, 4]), random.integers(2, 60))
        top_k = int(random.choice([0, 1, 2, 5, 20, 100]))
        top_p = float(random.choice([1.0, random.uniform(0.01, 0.999)]))
        min_p = float(random.choice([0.0, random.uniform(0, 1)]))
        kept = keep(softmax(logits), SamplingParams(1.0, top_k, top_p, min_p))
        scores = warped(logits, top_k, top_p, min_p)
        assert np.array_equal(kept > 0, scores > -np.inf), (top_k, top_p, min_p)
        assert np.allclose(kept, softmax(scores))


def test_a_set_whose_share_is_exactly_p_is_enough():
    probability = np.array([0.125, 0.5, 0.25, 0.125])
    kept = keep(probability, SamplingParams(temperature=1, top_p=0.5))
    assert np.flatnonzero(kept).tolist() == [1]
    kept = keep(probability, SamplingParams(temperature=1, top_k=2, top_p=0.5))
    assert np.flatnonzero(kept).tolist() == [1]


@pytest.mark.parametrize("spread", [0.01, 1, 4])  # with the first, top-p keeps most tokens
@pytest.mark.parametrize("step", [0, 0.5])  # with a step, many are equal
@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 1}, {"top_k": 40}, {"top_k": 10**6}, {"top_p": 0.3}, {"top_p": 0.999},
     {"min_p": 1e-3}, {"top_p": 0.5}, {"top_k": np.uint8(5)},
     {"top_k": 500, "top_p": 0.9, "min_p": 0.01}],
)  # fmt: skip
def test_filters_of_a_large_vocabulary_keep_what_a_whole_sort_would(spread, step, options):
    logits = np.random.Generator(np.random.PCG64(3)).normal(0, spread, 5 * FIRST_RANKED)
    if step:
        logits = np.round(logits / step) * step
    params = SamplingParams(temperature=1, **options)
    probability = softmax(logits)
    assert np.array_equal(keep(probability, params), kept_by_a_sort(probability, params))


@pytest.mark.parametrize("spread", [0.1, 3])
@pytest.mark.parametrize("step", [0, 0.05, 0.5])  # with a step, many are equal
@pytest.mark.parametrize("top_p", [0.9, 0.99])
def test_a_whole_vocabulary_draws_what_a_whole_sort_would_and_sorts_no_indices(
    monkeypatch, spread, step, top_p
):
    """Indices are sorted ten times as slowly as numbers: flat distributions took that for each."""
    logits = np.random.Generator(np.random.PCG64(4)).normal(0, spread, 151_936)
    if step:
        logits = np.round(logits / step) * step
    params = SamplingParams(temperature=0.8, top_p=top_p, seed=11)
    kept = kept_by_a_sort(np.exp(log_softmax((logits - logits.max()) / 0.8)), params)
    random = np.random.Generator(np.random.PCG64(11))
    expected = [int(np.searchsorted(np.cumsum(kept), random.random(), "right")) for _ in range(3)]

    def refused(*args, **options):
        raise AssertionError("argsort")

    monkeypatch.setattr(np, "argsort", refused)
    sampler = Sampler(params)
    assert [sampler.choose(logits) for _ in range(3)] == expected


def test_the_largest_come_best_first_with_all_that_equal_the_last():
    values = np.array([1.0, 5.0, 3.0, 5.0, 3.0, 0.0])
    assert largest(values, 1).tolist() == [1, 3]
    assert largest(values, 3).tolist() == [1, 3, 2, 4]
    assert largest(values, 6).tolist() == largest(values, 99).tolist() == [1, 3, 2, 4, 0, 5]


def test_a_draw_above_the_rounded_sum_takes_the_last_token_that_is_left():
    class Highest:
        def random(self):
            return 1 - 2**-53

    sampler = Sampler(SamplingParams(temperature=1, top_k=10))
    sampler._random = Highest()
    found = 0
    for seed in range(50):
        logits = np.random.Generator(np.random.PCG64(seed)).normal(0, 2, 50)
        probability = keep(softmax(logits), sampler.params)
        found += np.cumsum(probability)[-1] <= 1 - 2**-53
        assert probability[sampler.choose(logits)] > 0
    assert found
