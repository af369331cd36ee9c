"""A `Generation` fed with logits by hand, without a model; many of them in batches of one."""

import numpy as np
import pytest

import moeflux
from moeflux import Generation, SamplingParams
from moeflux.checkpoint import read_json
from moeflux.conversation import rewind
from moeflux.tokenizer import Tokenizer
from oracle import build

END = 256  # of the tiny checkpoints: tokens below are bytes
VOCAB = 320


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("push") / "m", family="qwen3_moe", form="mlx-q4")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(folder, read_json(folder / "config.json"))


OWN = ("max_tokens", "stop", "top_logprobs")  # of a Generation; the others are SamplingParams


def favour(token):
    """Logits of which this token is the best."""
    logits = np.zeros(VOCAB, np.float32)
    logits[token] = 9
    return logits


def say(generation, script):
    """All parts of a generation that is fed logits until it ends, and how many it took."""
    parts, left = [], list(script)
    while generation.closing is None:
        part = generation.take(favour(left.pop(0)))
        parts += [part] if part is not None else []
    return [*parts, generation.closing], len(script) - len(left)


@pytest.mark.parametrize(
    ("script", "options", "texts", "reason", "n_taken"),
    [
        (b"abc", {"max_tokens": 3}, ["a", "b", "c", ""], "length", 3),
        (b"abc", {"max_tokens": 2}, ["a", "b", ""], "length", 2),
        (b"abc", {"max_tokens": 0}, [""], "length", 0),
        ([*b"ab", END, *b"c"], {}, ["a", "b", ""], "eos", 3),
        (b"abcdef", {"stop": "cd"}, ["a", "b", "", "", ""], "stop", 4),
        (b"abcabd", {"stop": ["abd"]}, ["", "", "abc", "", "", "", ""], "stop", 6),
        ([*b"abc", END], {"stop": "cd"}, ["a", "b", "", "c"], "eos", 4),
        (b"abc", {"stop": "cd", "max_tokens": 3}, ["a", "b", "", "c"], "length", 3),
        ("\u00e9x".encode(), {"max_tokens": 3}, ["", "\u00e9", "x", ""], "length", 3),
        ("\u00e9x".encode(), {"max_tokens": 1}, ["", "\ufffd"], "length", 1),
        ("\u00e9x".encode(), {"max_tokens": 1, "stop": "\ufffd"}, ["", ""], "stop", 1),
    ],
)  # fmt: skip
def test_it_says_what_the_logits_say(tokenizer, script, options, texts, reason, n_taken):
    parts, taken = say(Generation(tokenizer, **options), list(script))
    assert [part.text for part in parts] == texts
    assert [part.token for part in parts[:-1]] == list(script)[: len(parts) - 1]
    assert parts[-1].token is None and taken == n_taken
    assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [reason]


def test_what_was_captured_goes_to_the_part_that_it_chose(tokenizer):
    generation = Generation(tokenizer, max_tokens=4)
    assert generation.take(favour(65), {"step": 0}).captured == {"step": 0}
    assert generation.take(favour(END), {"step": 1}) is None
    assert generation.closing.captured == {"step": 1}
    full = Generation(tokenizer, max_tokens=1)
    full.take(favour(65), {"step": 0})
    assert full.closing.captured is None


def test_alternatives_and_probabilities_are_of_the_logits_before_temperature(tokenizer):
    generation = Generation(tokenizer, SamplingParams(temperature=5.0, seed=0), top_logprobs=2)
    part = generation.take(favour(65))
    best = float(9 - np.log(np.exp(9) + VOCAB - 1))
    assert part.top == ((65, pytest.approx(best)), (0, pytest.approx(best - 9)))
    assert part.logprob == pytest.approx(best if part.token == 65 else best - 9)


def test_the_penalty_sees_what_came_before_and_what_was_said(tokenizer):
    logits = favour(65)
    logits[66], logits[67] = 8, 7
    generation = Generation(tokenizer, SamplingParams(repetition_penalty=4.0), seen=[65])
    assert [generation.take(logits).token for _ in range(2)] == [66, 67]


def test_one_that_has_ended_takes_no_more(tokenizer):
    generation = Generation(tokenizer, max_tokens=1)
    said, closing = generation.take(favour(65)), generation.closing
    with pytest.raises(moeflux.SessionError, match="has ended"):
        generation.take(favour(66))
    assert said.text == "A" and generation.closing is closing


def test_logits_that_leave_no_token_change_nothing(tokenizer):
    params = SamplingParams(temperature=1.0, seed=7, repetition_penalty=1.3)
    plain, disturbed = (Generation(tokenizer, params, max_tokens=5) for _ in range(2))
    logits = np.random.default_rng(0).standard_normal(VOCAB)
    for _ in range(5):
        with pytest.raises(moeflux.SessionError, match="-inf"):
            disturbed.take(np.full(VOCAB, -np.inf))
        assert disturbed.take(logits) == plain.take(logits)
    assert disturbed.closing == plain.closing


@pytest.mark.parametrize("options", [{"max_tokens": -1}, {"top_logprobs": 1.5}, {"stop": [1]}])
def test_bad_arguments_are_refused(tokenizer, options):
    with pytest.raises(moeflux.SessionError, match=next(iter(options))):
        Generation(tokenizer, **options)


def test_many_are_driven_in_batches_and_say_what_each_says_alone(folder):
    model = moeflux.load(folder, memory="128MiB", context=96)
    asked = {
        "Hello": {"max_tokens": 12},
        "import os": {"max_tokens": 9, "temperature": 1.0, "seed": 3},
        "def": {"max_tokens": 20, "temperature": 1.5, "seed": 4, "top_p": 0.9, "stop": ["e", "a"]},
        "x": {"max_tokens": 5, "repetition_penalty": 1.5, "top_logprobs": 2},
        "": {"max_tokens": 0},
    }
    alone = {text: list(moeflux.stream_generate(model, text or "y", **options))
             for text, options in asked.items()}  # fmt: skip
    going, said = {}, {text: [] for text in asked}
    for text, options in asked.items():
        own = {name: value for name, value in options.items() if name in OWN}
        params = SamplingParams(**{n: value for n, value in options.items() if n not in OWN})
        ids = model.tokenizer.encode(text or "y")
        generation = Generation(model.tokenizer, params, seen=ids, **own)
        going[text] = model.session(), generation, ids
    while going:
        for text in [text for text, (_, generation, _) in going.items() if generation.closing]:
            said[text].append(going.pop(text)[1].closing)
        rows = model.step_batch([(session, ids) for session, _, ids in going.values()])
        for (text, (session, generation, _)), logits in zip(list(going.items()), rows, strict=True):
            if part := generation.take(logits):
                said[text].append(part)
                going[text] = session, generation, [part.token]
    assert said == alone
    assert {parts[-1].finish_reason for parts in said.values()} > {"length"}


class Held:
    """A session that only counts."""

    def __init__(self, position, truncatable_to=None):
        self.position, self.done = position, []
        self.truncatable_to = position if truncatable_to is None else truncatable_to

    def truncate(self, n_tokens):
        self.position = n_tokens
        self.done.append("truncate")

    def restore(self, snapshot):
        self.position = snapshot.position
        self.done.append("restore")

    def reset(self):
        self.position = 0
        self.done.append("reset")


@pytest.mark.parametrize(
    ("held", "saved", "wanted", "done", "rest"),
    [
        ([1, 2, 3], 2, [1, 2, 3, 4], [], [4]),
        ([1, 2, 3], None, [1, 2, 3], [], []),
        ([], None, [1, 2], [], [1, 2]),
        ([1, 2, 3], 2, [1, 2, 9], ["restore"], [9]),
        ([1, 2, 3], 2, [1, 2], ["restore"], []),
        ([1, 2, 3], 2, [1, 9, 3], ["reset"], [1, 9, 3]),
        ([1, 2, 3], None, [1, 2, 9], ["reset"], [1, 2, 9]),
        ([1, 2, 3], 2, [], ["reset"], []),
    ],
)
def test_a_session_goes_back_as_little_as_it_can(held, saved, wanted, done, rest):
    session = Held(len(held))
    snapshot = Held(saved) if saved is not None else None
    assert rewind(session, held, snapshot, wanted) == rest
    assert session.done == done and session.position == len(wanted) - len(rest)


@pytest.mark.parametrize(("least", "done", "rest"), [
    (0, "truncate", [9, 3]), (1, "truncate", [9, 3]), (2, "reset", [1, 9, 3])])  # fmt: skip
def test_a_session_that_can_be_cut_so_far_needs_no_snapshot(least, done, rest):
    session = Held(3, truncatable_to=least)
    assert rewind(session, [1, 2, 3], None, [1, 9, 3]) == rest
    assert session.done == [done] and session.position == 3 - len(rest)


@pytest.mark.parametrize("seen", [[-1], [1.5], "text", None, 3, [[1]]])
def test_what_has_been_seen_is_token_ids(tokenizer, seen):
    with pytest.raises(moeflux.SessionError, match="seen"):
        Generation(tokenizer, seen=seen)


@pytest.mark.parametrize("logits", [np.zeros((2, VOCAB)), np.float32(1), np.zeros(3)])
def test_logits_of_another_shape_are_refused_and_nothing_has_changed(tokenizer, logits):
    generation, other = (
        Generation(tokenizer, SamplingParams(temperature=1, seed=3), seen=[VOCAB - 1])
        for _ in range(2)
    )
    with pytest.raises(moeflux.SessionError, match="logits of one position"):
        generation.take(logits)
    assert generation.take(np.zeros(VOCAB)) == other.take(np.zeros(VOCAB))
