"""Conversations that something stops while they go back: the next answer is right, and the file."""

import pytest

import moeflux
from moeflux.conversation import Conversation
from oracle import build

GREEDY = {"temperature": 0.0, "max_tokens": 6, "logit_bias": {256: -1e9}}  # never <|im_end|>
BROKEN = {"max_tokens": 3, "logit_bias": {i: -1e9 for i in range(257) if i != 0xFF}}  # no UTF-8
FAMILIES = {"qwen3_moe": "truncate", "qwen3_next": "restore"}  # how each goes back


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("chat") / "m", family=family, form="mlx-q4")
    return moeflux.load(folder, memory="128MiB", context=256)


def text_of(parts):
    return "".join(part.text for part in parts)


def fresh(model, talk, question):
    """What a session that holds nothing answers to the whole talk."""
    messages = [*talk.messages, {"role": "user", "content": question}]
    return moeflux.generate(model, messages=messages, **GREEDY)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("error", [moeflux.MemoryBudgetError, KeyboardInterrupt])
def test_what_stops_going_back_leaves_a_talk_that_goes_on(
    tmp_path, model, family, error, late, monkeypatch
):
    """Before the session has gone back, or when it just has."""
    talk = Conversation(model)
    text_of(talk.reply("one", **BROKEN))  # comes back as other ids: the next turn goes back
    go_back = getattr(moeflux.Session, FAMILIES[family])

    def stopped(*args):
        if late:
            go_back(*args)
        raise error

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(moeflux.Session, FAMILIES[family], stopped)
        next(talk.reply("two"))
    assert len(talk.messages) == 2
    talk.write(tmp_path / "talk")
    for same in (Conversation.read(model, tmp_path / "talk"), talk):
        expected = fresh(model, same, "two")
        assert text_of(same.reply("two", **GREEDY)) == expected


def test_what_stops_a_reset_leaves_a_talk_that_starts_over(tmp_path, model, monkeypatch):
    talk = Conversation(model)
    text_of(talk.reply("one", **GREEDY))

    def stopped(session):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moeflux.Session, "reset", stopped)
        talk.reset()
    talk.write(tmp_path / "talk")
    for same in (Conversation.read(model, tmp_path / "talk"), talk):
        assert same.n_held == 0 and same.messages == []
        expected = fresh(model, same, "two")
        assert text_of(same.reply("two", **GREEDY)) == expected
