"""A model as an object: closed, shown, followed and stopped from outside."""

import gc
import inspect
import weakref

import numpy as np
import pytest

import moeflux
from moeflux.stream import GenerateOptions
from moeflux.trace import Trace
from oracle import build

PROMPT = list(range(60, 60 + 190))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("lifetime") / "m", family="qwen3_next", form="mlx-q4")


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, memory="128MiB", context=256)


def test_a_closed_model_has_given_all_back_and_refuses_with_a_typed_error(folder):
    with moeflux.load(folder, memory="64MiB", context=64) as model:
        session = model.session()
        session.step([1, 2])
        other = session.fork()
        parts = moeflux.stream_generate(model, [1, 2], max_tokens=9)
        next(parts)
        native = weakref.ref(model._native)
    gc.collect()
    assert native() is None
    # fmt: off
    calls = [model.session, session.save, lambda: session.step([3]), lambda: other.position,
             lambda: model.stats, lambda: next(parts), lambda: moeflux.generate(model, "x"),
             lambda: model.step_batch([(session, [1])]), lambda: moeflux.Conversation(model)]
    # fmt: on
    for call in calls:
        with pytest.raises(moeflux.SessionError, match="closed"):
            call()
    model.close()
    assert "closed" in repr(model) and "closed" in repr(session)
    assert model.tokenizer.encode("a") == [97]


def test_what_is_shown_of_an_object_tells_what_it_is(model, folder):
    session = model.session()
    session.step([1, 2, 3])
    trace = Trace(np.zeros((5, 2, 4), np.int32), 24, np.zeros(1, np.int64))
    assert repr(session) == "<Session at 3 of 256, native routing>"
    assert str(folder) in repr(model) and "float32 on cpu" in repr(model)
    assert "134.2 MB" in repr(model) and len(repr(trace)) < 100 and "4 of 24" in repr(trace)
    assert repr(model.tokenizer) == "<Tokenizer of 257 tokens, a chat template, ends [256]>"


def test_a_prompt_that_is_followed_has_the_same_bits_in_the_same_passes(model):
    whole, followed, seen = model.session(), model.session(), []
    options = {"max_tokens": 6, "logit_bias": {256: -1e9}}
    expected = list(moeflux.stream_generate(model, PROMPT, session=whole, **options))
    passes = model.stats["passes"]
    parts = moeflux.stream_generate(model, PROMPT, session=followed, **options,
                                    progress=lambda *done: seen.append(done))  # fmt: skip
    assert list(parts) == expected
    assert seen == [(64, 190), (128, 190), (190, 190)]
    assert model.stats["passes"] - passes == 3 + 5
    assert np.array_equal(whole.step([1]), followed.step([1]))


def test_what_is_captured_of_a_followed_prompt_is_whole(model):
    seen = []
    options = {"max_tokens": 1, "capture": "experts"}
    parts = moeflux.stream_generate(model, PROMPT, progress=lambda *n: seen.append(n), **options)
    first = next(parts).captured["experts"]
    assert len(first) == 190 and seen == [(190, 190)]


@pytest.mark.parametrize("asked", [0, 1, 2, 5])
def test_a_cancelled_generation_holds_what_it_has_said(model, asked):
    """Asked before each of three passes, then before each token."""
    answers = iter([False] * asked + [True] + [False] * 9)  # once: it is not asked again
    session = model.session()
    parts = list(moeflux.stream_generate(model, PROMPT, session=session, max_tokens=9,
                                         cancel=lambda: next(answers),
                                         logit_bias={256: -1e9}))  # fmt: skip
    n = max(asked - 3, 0)
    assert len(parts) == n + 1 and parts[-1].finish_reason == "cancelled"
    assert session.position == min(64 * asked, 190) + n


@pytest.mark.parametrize("asked", [0, 3])
def test_a_question_cancelled_before_its_answer_is_taken_back(model, asked):
    talk, seen = moeflux.Conversation(model), []
    answers = iter([False] * asked + [True])
    question = "q" * 170
    parts = list(talk.reply(question, max_tokens=4, progress=lambda *n: seen.append(n),
                            cancel=lambda: next(answers)))  # fmt: skip
    assert [part.finish_reason for part in parts] == ["cancelled"] and talk.messages == []
    assert len(seen) == asked and talk.n_held == talk._session.position
    said = "".join(part.text for part in talk.reply(question, max_tokens=4))
    assert said == moeflux.generate(model, messages=[{"role": "user", "content": question}],
                                    max_tokens=4)  # fmt: skip


def test_generate_has_the_arguments_of_stream_generate_and_reply_some():
    stream = inspect.signature(moeflux.stream_generate)
    told = inspect.signature(moeflux.generate)
    assert told.parameters == stream.parameters and told.return_annotation == "str"
    for name, kind in inspect.get_annotations(GenerateOptions).items():
        assert stream.parameters[name].annotation == kind.__forward_arg__
    for wrong in ({"progress": 1}, {"cancel": "no"}):
        with pytest.raises(moeflux.SessionError, match="a function"):
            moeflux.generate(None or moeflux.load(memory="24MiB", context=64), "x", **wrong)
