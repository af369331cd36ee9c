"""Drafts change no text, whatever they guess, and a session is at any time as without them."""

import random
import time

import numpy as np
import pytest

import moeflux
from moeflux import SessionError, drafting
from moeflux.drafting import MOST, Draft, Ngram
from oracle import build
from support.few import few

TEXT = [int(t) for t in np.random.Generator(np.random.PCG64(5)).integers(97, 122, 40)]
MANY = 60


class Truth:
    """Knows what comes, but for a share of it."""

    def __init__(self, tokens, wrong=0.0):
        self.tokens, self.wrong, self.n, self.draw = tokens, wrong, 0, random.Random(3)

    def __call__(self):
        self.n = 0
        return self

    def add(self, token):
        self.n += 1

    def guess(self):
        found = self.tokens[self.n : self.n + MOST]
        return [t if self.draw.random() >= self.wrong else self.draw.randrange(250) for t in found]


class Noise:
    """Guesses anything, tokens that there are not, too."""

    def __init__(self):
        self.draw = random.Random(4)

    def add(self, token):
        pass

    def guess(self):
        return [self.draw.choice([-1, 0, 1, 97, 200, 10**6]) for _ in range(self.draw.randrange(9))]


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_next"])
def model(request, tmp_path_factory):
    """Attention alone, and with recurrent state, which cannot be cut."""
    path = tmp_path_factory.mktemp("draft") / request.param
    folder = build(path, family=request.param, form="mlx-q4")
    return moeflux.load(folder, memory="128MiB", context=512, max_slots=12, threads=2)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Guesses are made whether they pay or not, so that all is deterministic."""
    monkeypatch.setattr(Draft, "_pays", lambda self: True)


def parts(model, draft=None, **options):
    options = {"max_tokens": MANY, "top_logprobs": 2, **options}
    return list(moeflux.stream_generate(model, TEXT, draft=draft, **options))


def use(monkeypatch, drafter):
    monkeypatch.setitem(drafting.DRAFTERS, "ngram", drafter)


OPTIONS = [
    {}, {"temperature": 0.9, "seed": 1}, {"temperature": 0.7, "top_p": 0.8, "seed": 2},
    {"repetition_penalty": 1.3}, {"max_tokens": 1}, {"max_tokens": 2}, {"logit_bias": {101: 5.0}},
]  # fmt: skip


@pytest.mark.parametrize("options", few(2, OPTIONS), ids=str)
@pytest.mark.parametrize("kind", ["ngram", "noise", "truth", "half"])
def test_no_part_differs_whatever_is_guessed(model, monkeypatch, kind, options):
    expected = parts(model, **options)
    every = TEXT + [part.token for part in expected if part.token is not None]
    drafters = {"ngram": Ngram, "noise": Noise, "truth": Truth(every), "half": Truth(every, 0.3)}
    use(monkeypatch, drafters[kind])
    before = model.stats["steps"]
    assert parts(model, "ngram", **options) == expected
    if kind == "truth" and not options:  # they did share steps
        assert model.stats["steps"] - before < MANY / 4


@pytest.mark.parametrize("wrong", [0.0, 0.4, 1.0])
def test_at_every_part_the_session_is_as_without(model, monkeypatch, wrong):
    """Its position, what it goes on with, and what a snapshot or a fork of it holds."""
    expected = parts(model, logit_bias={256: -1e9})
    every = TEXT + [part.token for part in expected if part.token is not None]
    use(monkeypatch, Truth(every, wrong))
    whole = model.session()
    logits = whole.step(every, all_logits=True)
    for end in (1, 2, 3, 7, 20):
        session = model.session()
        stream = moeflux.stream_generate(model, TEXT, session=session, draft="ngram",
                                         max_tokens=MANY, logit_bias={256: -1e9})  # fmt: skip
        for i in range(1, end + 1):
            next(stream)
            assert session.position == len(TEXT) + i
        if end % 2:
            stream.close()
        at = len(TEXT) + end
        other = session.fork()
        snapshot = session.save()
        assert snapshot.position == at and session.position == at
        assert np.array_equal(session.step(every[at : at + 1]), logits[at])
        assert np.array_equal(other.step(every[at : at + 1]), logits[at])
        session.restore(snapshot)
        assert np.array_equal(session.step(every[at : at + 1]), logits[at])


def test_a_generation_goes_on_from_one_with_drafts(model, monkeypatch):
    expected = parts(model)
    every = TEXT + [part.token for part in expected if part.token is not None]
    use(monkeypatch, Truth(every))
    session, found = model.session(), []
    for n in (5, 1, 9, MANY - 15):
        prompt = [] if session.position else TEXT
        history = every[: session.position]
        found += moeflux.stream_generate(model, prompt, session=session, history=history,
                                         max_tokens=n, draft="ngram")  # fmt: skip
    tokens = [part.token for part in found if part.token is not None]
    assert tokens == every[len(TEXT) :]


def test_stop_strings_and_cancels_end_where_they_would(model, monkeypatch):
    expected = parts(model, logit_bias={256: -1e9})
    every = TEXT + [part.token for part in expected if part.token is not None]
    use(monkeypatch, Truth(every))
    text = "".join(part.text for part in expected)
    stop = text[10:13]
    assert parts(model, "ngram", stop=stop, logit_bias={256: -1e9}) == parts(
        model, stop=stop, logit_bias={256: -1e9}
    )
    for draft in (None, "ngram"):
        calls = iter(range(100))
        found = parts(model, draft, cancel=lambda calls=calls: next(calls) > 6)
        assert found[-1].finish_reason == "cancelled" and len(found) == 7


def test_a_text_that_fills_the_context_fills_it_with_drafts(model, monkeypatch):
    prompt = TEXT * 12  # 480 of 512
    session, other = model.session(), model.session()
    options = {"max_tokens": 100, "logit_bias": {256: -1e9}}
    expected = list(moeflux.stream_generate(model, prompt, session=session, **options))
    found = list(moeflux.stream_generate(model, prompt, session=other, draft="ngram", **options))
    assert found == expected and session.position == other.position == 512


@pytest.mark.parametrize("error", [moeflux.IoError, moeflux.MemoryBudgetError])
def test_a_guess_that_cannot_be_stepped_is_left_out(model, monkeypatch, error):
    expected = parts(model)
    monkeypatch.setattr(drafting, "stepped", raising(error))
    assert parts(model, "ngram") == expected


class Sevens:
    def add(self, token):
        pass

    def guess(self):
        return [7, 7, 7]


def test_ctrl_c_after_a_step_leaves_no_guess_in_the_session(model, monkeypatch):
    use(monkeypatch, Sevens)
    step, plain, session, said = drafting.stepped, model.session(), model.session(), []

    def stepped(*args):
        step(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(drafting, "stepped", stepped)
    with pytest.raises(KeyboardInterrupt):
        for part in moeflux.stream_generate(model, TEXT, session=session, draft="ngram",
                                            max_tokens=MANY):  # fmt: skip
            said.append(part.token)
    assert said and session.position == len(TEXT) + len(said)
    plain.step([*TEXT, *said])
    assert np.array_equal(session.step([7]), plain.step([7]))


def raising(error):
    def step(*_):
        raise error("a guess failed")

    return step


def test_a_step_that_is_repeated_and_fails_is_made_up_for(model, monkeypatch):
    """Of models with recurrent state: the rest of a wrong guess is stepped again."""
    if model.session().truncatable:
        return
    expected = parts(model, logit_bias={256: -1e9})
    every = TEXT + [part.token for part in expected if part.token is not None]
    use(monkeypatch, Truth(every, 0.4))
    session, tokens, fails = model.session(), [], 0
    step = moeflux.ahead.step_items

    def failing(session, tokens):
        nonlocal fails
        fails += 1
        if fails % 2:
            raise moeflux.IoError("an expert is unreadable")
        return step(session, tokens)

    monkeypatch.setattr(moeflux.ahead, "step_items", failing)
    while len(tokens) < MANY:
        held = TEXT + tokens
        try:
            for part in moeflux.stream_generate(
                model, TEXT if not session.position else [], session=session, draft="ngram",
                history=held if session.position else [], max_tokens=MANY - len(tokens),
                logit_bias={256: -1e9},
            ):  # fmt: skip
                tokens += [part.token] if part.token is not None else []
        except moeflux.IoError:
            # The token whose showing failed was chosen and not shown: it is chosen again.
            assert session.position == len(TEXT) + len(tokens)
    assert TEXT + tokens == every and fails > 2


def test_arguments_that_do_not_go_together_are_refused(model, tmp_path):
    for draft in ("other", "", 3, True):
        with pytest.raises(SessionError, match="draft: expected None or "):
            parts(model, draft)
    with pytest.raises(SessionError, match="either `draft` or `capture`"):
        parts(model, "ngram", capture=["experts"])
    device = moeflux.load(build(tmp_path / "d", family="qwen3_moe", form="mlx-q4"),
                          memory="128MiB", context=64, device="host")  # fmt: skip
    with pytest.raises(SessionError, match="draft: expected a model on the CPU"):
        moeflux.generate(device, "x", draft="ngram")


def test_ngrams_find_what_followed_last_and_not_themselves():
    drafter = Ngram()
    for token in [1, 2, 3, 4, 5, 1, 2, 3, 9, 8, 1, 2]:
        drafter.add(token)
    assert drafter.guess() == [3, 9, 8, 1, 2]
    drafter.add(3)
    assert drafter.guess() == [9, 8, 1, 2, 3]
    for token in (7, 7):
        drafter.add(token)
    assert drafter.guess() == []
    drafter.add(7)
    assert drafter.guess() == [7]
    assert Ngram().guess() == []


@pytest.fixture
def gate(model, monkeypatch):
    """A Draft whose steps so far waited a second a byte."""
    monkeypatch.undo()
    use(monkeypatch, Noise)
    draft = Draft("ngram", model._native, [])
    draft._waited = draft._missed = 100.0
    for _ in range(drafting.TRIALS):
        draft._plain.see(1.0, 0)
        draft._drafted.see(2.0, 0)
    return draft


def test_guesses_that_take_longer_than_they_save_are_left_out(gate):
    asked = [gate._pays() for _ in range(2 * drafting.AGAIN)]
    assert sum(asked) == 2 and asked[drafting.AGAIN - 1]
    gate._drafted.seconds = 0.5
    assert gate._pays()
    gate._plain.n = 0
    assert not gate._pays()


def test_guesses_that_read_more_than_they_save_are_left_out(gate):
    gate._drafted.seconds = 0.5
    gate._drafted.nbytes = 0.4
    assert gate._pays()
    gate._drafted.nbytes = 0.6
    assert not gate._pays()
    gate._plain.nbytes = 0.2
    assert gate._pays()
    gate._plain.nbytes, gate._waited = 0.0, 0.0  # the disk is so fast that nobody waits
    assert gate._pays()


def test_what_a_step_took_is_its_own_and_a_guesss_is_divided_among_its_true_tokens(
    model, monkeypatch
):
    """Costs are what the engine's counters say, whatever the clock does."""
    now = iter(range(10**9))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(now)))
    expected = parts(model, logit_bias={256: -1e9})
    every = TEXT + [part.token for part in expected if part.token is not None]
    use(monkeypatch, Truth(every))
    seen = {"plain": [], "drafted": []}
    see = drafting.Cost.see

    def record(self, seconds, nbytes):
        draft = made[0]
        seen["plain" if self is draft._plain else "drafted"].append(nbytes)
        see(self, seconds, nbytes)

    made, init = [], Draft.__init__
    monkeypatch.setattr(Draft, "__init__", lambda self, *a: (made.append(self), init(self, *a))[1])
    monkeypatch.setattr(drafting.Cost, "see", record)
    before = model.stats["bytes_read"]
    session = model.session()
    session.step(TEXT)
    prompt = model.stats["bytes_read"]
    list(moeflux.stream_generate(model, [], session=session, history=TEXT, draft="ngram",
                                 max_tokens=MANY, logit_bias={256: -1e9}))  # fmt: skip
    assert before < prompt
    assert made[0]._missed == model.stats["bytes_read"] - prompt > 0
    assert seen["drafted"] and sum(seen["plain"]) <= made[0]._missed
