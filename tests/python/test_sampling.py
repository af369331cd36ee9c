"""The native sampler against numpy in float64: the same tokens, the same distributions."""

import threading

import numpy as np
import pytest

import moeflux
from moeflux import _core
from moeflux.sampling import Sampler, SamplingParams
from support import numpy_sampler
from support.few import few
from support.numpy_sampler import keep, log_softmax, softmax, warped

LOGITS = np.random.Generator(np.random.PCG64(1)).normal(0, 2, 50).astype(np.float32)
VOCAB = 151_936  # of Qwen3


def floats(random, spread, size, step=0.0):
    """Normal logits; with a step, many are equal."""
    logits = random.normal(0, spread, size)
    return (np.round(logits / step) * step if step else logits).astype(np.float32)


def words(allowed):
    """A mask of which tokens are allowed (bool)."""
    padded = np.zeros(-(-allowed.size // 32) * 32, bool)
    padded[: allowed.size] = allowed
    return np.packbits(padded, bitorder="little").view(np.uint32)


def distribution(logits, params, mask=None):
    """What the native sampler draws from, (vocab,), summing to one."""
    ids, weights = _core.distribution(logits, (Sampler(params)._native, 0.0, mask))
    assert (np.diff(ids.astype(np.int64)) > 0).all()
    out = np.zeros(len(logits))
    out[ids] = weights
    return out / out.sum()


def draws(params, n=4000, logits=LOGITS):
    sampler = Sampler(params)
    chosen = [sampler.choose(logits).token for _ in range(n)]
    return np.bincount(chosen, minlength=len(logits))


def settings(random, vocab):
    """Some parameters, prompt, mask and ends, each of which is off half of the time."""

    def some(value, off):
        return value if random.random() < 0.5 else off

    bias = {int(random.integers(vocab)): float(random.choice([-np.inf, -3, 5])) for _ in range(4)}
    params = SamplingParams(
        temperature=some(float(random.uniform(0.3, 2)), float(random.choice([0, 1]))),
        top_k=some(int(random.choice([1, 2, 20, 100, 10**6])), 0),
        top_p=some(float(random.uniform(0.01, 0.999)), 1.0),
        min_p=some(float(random.uniform(0, 0.3)), 0.0),
        repetition_penalty=some(float(random.uniform(0.7, 1.7)), 1.0),
        logit_bias=some(bias, {}),
        seed=int(random.integers(2**63)),
        presence_penalty=some(float(random.uniform(-1, 1)), 0.0),
        frequency_penalty=some(float(random.uniform(-1, 1)), 0.0),
    )
    more = {"seen": some(random.integers(0, vocab, 30).tolist(), []),
            "ends": some([3, 1, vocab - 1], []),
            "min_tokens": int(random.choice([0, 5, 10**6]))}  # fmt: skip
    return params, more, some(words(random.random(vocab) < 0.7), None)


def compare(seed, rounds):
    """Draws 40 tokens with each of many settings: seen tokens, penalties and the state go on."""
    random, count = np.random.Generator(np.random.PCG64(seed)), 0
    for _ in range(rounds):
        vocab = int(random.choice([4, 33, 512]))
        params, more, mask = settings(random, vocab)
        more["ends"] = [token for token in more["ends"] if token < vocab]
        rows = floats(random, float(random.choice([0.3, 2, 5])), (10, vocab),
                      float(random.choice([0, 0.5])))  # fmt: skip
        native, plain = Sampler(params, **more), numpy_sampler.Sampler(params, **more)
        native.mask = plain.mask = mask
        for i in range(40):
            row = rows[i % 10]
            if not np.isfinite(plain.adjust(row).max()):
                with pytest.raises(moeflux.SessionError, match="-inf"):
                    native.choose(row)
                break
            assert native.choose(row).token == plain.choose(row), (params, more, i)
            count += 1
    return count


@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_those_of_numpy(seed):
    compare(seed, 50)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_million_tokens_are_those_of_numpy(seed):
    assert compare(seed, 2800) > 100_000


@pytest.mark.parametrize("spread", few(1, [1, 0.1, 4]))
@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.9}, {"top_k": 6000}, {"min_p": 0.05},
     {"top_p": 0.99, "min_p": 1e-4, "repetition_penalty": 1.3}],
)  # fmt: skip
def test_tokens_of_a_whole_vocabulary_are_those_of_numpy(spread, options):
    random = np.random.Generator(np.random.PCG64(7))
    row, params = floats(random, spread, VOCAB), SamplingParams(0.8, **options, seed=5)
    seen = random.integers(0, VOCAB, 300)
    native, plain = Sampler(params, seen=seen), numpy_sampler.Sampler(params, seen=seen)
    cumulative = np.cumsum(plain.probabilities(row))  # of the first draw
    assert native.choose(row).token == plain.choose(row)
    uniform = random.random(200)
    found = [_core.choose(row, (Sampler(params, seen=seen)._native, float(u), None))["token"]
             for u in uniform]  # fmt: skip
    assert found == np.searchsorted(cumulative, uniform, side="right").tolist()


FILTERS = [{}, {"top_k": 9, "top_p": 0.8}, {"top_p": 0.7}, {"min_p": 0.05},
           {"top_k": 20, "top_p": 0.95, "min_p": 0.02}]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("options", FILTERS)
def test_frequencies_follow_the_distribution(temperature, options):
    """Chi-square of 20,000 draws; tokens that expect fewer than five are one."""
    params = SamplingParams(temperature, **options, seed=2)
    expected = 20_000 * keep(softmax(LOGITS.astype(np.float64) / params.temperature), params)
    found = draws(params, 20_000)
    assert not found[expected == 0].any()
    rare = expected < 5
    bins = [(n, e) for n, e in zip(found[~rare], expected[~rare], strict=True)]
    bins += [(found[rare].sum(), expected[rare].sum())] if expected[rare].sum() > 5 else []
    square = sum((n - e) ** 2 / e for n, e in bins)
    freedom = len(bins) - 1
    assert square < freedom + 4 * np.sqrt(2 * freedom)


def test_filters_together_keep_what_transformers_keeps():
    random = np.random.Generator(np.random.PCG64(5))
    for _ in range(3000):
        logits = floats(random, random.choice([0.3, 1, 4]), random.integers(2, 60))
        top_k = int(random.choice([0, 1, 2, 5, 20, 100]))
        top_p = float(random.choice([1.0, random.uniform(0.01, 0.999)]))
        min_p = float(random.choice([0.0, random.uniform(0, 1)]))
        kept = distribution(logits, SamplingParams(1.0, top_k, top_p, min_p))
        scores = warped(logits, top_k, top_p, min_p)
        assert np.array_equal(kept > 0, scores > -np.inf), (top_k, top_p, min_p)
        assert np.allclose(kept, softmax(scores), rtol=1e-13, atol=0)


@pytest.mark.parametrize("spread", [0.01, 1, 4])  # with the first, top-p keeps most tokens
@pytest.mark.parametrize("step", [0, 0.5])  # with a step, many are equal
@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": 1}, {"top_k": 40}, {"top_k": 10**6}, {"top_k": 900}, {"top_p": 0.3},
     {"top_p": 0.999}, {"min_p": 1e-3}, {"min_p": 1.0}, {"top_p": 1e-9}, {"top_k": np.uint8(5)},
     {"top_k": 500, "top_p": 0.9, "min_p": 0.01}],
)  # fmt: skip
def test_filters_of_a_large_vocabulary_keep_what_a_whole_sort_would(spread, step, options):
    logits = floats(np.random.Generator(np.random.PCG64(3)), spread, 20_480, step)
    params = SamplingParams(1.0, **options)
    expected = keep(softmax(logits), params)
    found = distribution(logits, params)
    assert np.array_equal(found > 0, expected > 0)
    assert np.allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n", [1, 3, 31, 32, 33, 4097])
def test_the_best_are_the_first_of_a_stable_sort_wherever_they_stand(n):
    random = np.random.Generator(np.random.PCG64(n))
    for step in (0, 0.25):
        logits = floats(random, 1, n, step)
        for top in {0, 1, 2, n // 2, n, n + 5}:
            choice = Sampler(top_logprobs=top).choose(logits)
            order = np.argsort(-logits, kind="stable")[:top]
            assert [token for token, _ in choice.top] == order.tolist()
            expected = log_softmax(logits)
            assert np.allclose([value for _, value in choice.top], expected[order], rtol=1e-13)
            assert choice.token == np.argmax(logits)
            assert choice.logprob == pytest.approx(expected[choice.token], rel=1e-13)


def test_logprobs_are_those_of_the_logits_whatever_changes_them():
    plain = Sampler(top_logprobs=3).choose(LOGITS)
    params = SamplingParams(temperature=1.5, top_k=2, logit_bias={plain.token: -9.0}, seed=1)
    other = Sampler(params, seen=range(50), top_logprobs=3).choose(LOGITS)
    assert other.top == plain.top and other.token != plain.token
    assert other.logprob == pytest.approx(log_softmax(LOGITS)[other.token])


def test_greedy_takes_the_lowest_id_of_equals():
    assert Sampler().choose(np.array([0.0, 3.0, 3.0], np.float32)).token == 1
    for at in (1, 31, 32, 400):
        logits = np.zeros(500, np.float32)
        logits[at:] = 2
        assert Sampler().choose(logits).token == at


def test_a_sampler_has_seen_what_it_chose_and_what_it_was_told():
    logits = np.array([9, 8, 7, -1], np.float32)
    sampler = Sampler(SamplingParams(repetition_penalty=9.0))
    assert [sampler.choose(logits).token for _ in range(4)] == [0, 1, 2, 0]
    sampler = Sampler(SamplingParams(frequency_penalty=1.0))
    sampler.take(0)
    assert [sampler.choose(logits).token for _ in range(4)] == [0, 1, 0, 1]
    drawn, told = (Sampler(SamplingParams(temperature=1.0, seed=4)) for _ in range(2))
    for _ in range(20):  # a token that is told uses up a draw
        told.take(drawn.choose(LOGITS).token)
    assert drawn.choose(LOGITS) == told.choose(LOGITS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 17, 49])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3}])
def test_logits_that_are_no_numbers_are_refused_by_place(bad, at, options):
    logits = LOGITS.copy()
    logits[at] = bad
    sampler, other = (Sampler(SamplingParams(**options, seed=3)) for _ in range(2))
    for top in (None, 2):
        with pytest.raises(moeflux.SessionError, match=rf"(?i){bad} at token {at}"):
            Sampler(SamplingParams(**options), top_logprobs=top).choose(logits)
    with pytest.raises(moeflux.SessionError):
        sampler.choose(logits)
    assert sampler.choose(LOGITS) == other.choose(LOGITS)  # nothing has changed


def test_ids_that_the_vocabulary_lacks_are_refused():
    for options, more in (({"logit_bias": {50: 1.0}}, {}), ({}, {"seen": [50]}),
                          ({"logit_bias": {2**40: 1.0}}, {})):  # fmt: skip
        with pytest.raises(moeflux.SessionError, match="below 50"):
            Sampler(SamplingParams(**options), **more).choose(LOGITS)
    Sampler(ends=[50, 2**32 - 1], min_tokens=1).choose(LOGITS)  # cannot be chosen anyway


@pytest.mark.parametrize(
    "mask",
    [*(np.zeros(n, np.uint32) for n in (0, 1, 3, (2, 1))), np.zeros(2), [1, 2], 3, "all"],
    ids=str,
)
def test_a_mask_of_another_size_is_refused(mask):
    sampler = Sampler()
    sampler.mask = mask
    with pytest.raises(moeflux.SessionError, match="mask"):
        sampler.choose(LOGITS)


def test_a_sampler_is_used_by_one_call_at_a_time():
    row = floats(np.random.Generator(np.random.PCG64(1)), 1, VOCAB)
    sampler, told = Sampler(SamplingParams(temperature=1.0, seed=1)), []

    def use():
        for _ in range(200):
            try:
                sampler.choose(row)
            except moeflux.SessionError as error:
                told.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("in use" in text for text in told)


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0},
     {"top_p": 1.5}, {"min_p": -0.1}, {"repetition_penalty": 0},
     {"presence_penalty": float("inf")}, {"frequency_penalty": float("nan")},
     {"logit_bias": {3: float("nan")}}, {"logit_bias": {3: float("inf")}}],
)  # fmt: skip
def test_senseless_parameters_are_refused(bad):
    with pytest.raises(moeflux.SessionError, match="expected"):
        SamplingParams(**bad)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9, 1e300])
def test_temperatures_at_the_ends_of_their_range_draw_tokens(temperature):
    sampler = Sampler(SamplingParams(temperature=temperature, seed=1))
    found = {sampler.choose(LOGITS).token for _ in range(50)}
    assert found == {int(np.argmax(LOGITS))} if temperature < 1 else len(found) > 20


@pytest.mark.parametrize("options", [{}, {"top_k": 10}, {"top_p": 0.9}])
def test_a_draw_just_below_one_takes_a_token_that_is_left(options):
    params = SamplingParams(temperature=1, **options, seed=1)
    native = Sampler(params)._native
    for seed in range(50):
        logits = floats(np.random.Generator(np.random.PCG64(seed)), 2, 50)
        token = _core.choose(logits, (native, 1 - 2**-53, None))["token"]
        assert distribution(logits, params)[token] > 0


def test_a_set_whose_share_is_exactly_p_is_enough():
    logits = np.array([0, 0, 0, 0, -900], np.float32)  # equals, and what is below 1e-300
    kept = distribution(logits, SamplingParams(temperature=1, top_p=0.5))
    assert np.flatnonzero(kept).tolist() == [0, 1]
    kept = distribution(logits, SamplingParams(temperature=1, top_k=2, top_p=0.5))
    assert np.flatnonzero(kept).tolist() == [0]
