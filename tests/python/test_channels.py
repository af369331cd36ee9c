"""gpt-oss writes to channels: analysis is thought, and the model gets its answer back alone."""

import numpy as np
import pytest

import moeflux
from moeflux import conversation
from moeflux.conversation import Conversation
from moeflux.generation import Generation, Part
from moeflux.thinking import CHANNEL_TOKENS, TURN, Thinking, parted
from moeflux.tokenizer import Tokenizer
from oracle import build
from oracle.tokenizer_file import write_tokenizer

# As the template of the release has it, cut to what a talk needs.
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final"
    "{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
)
ANSWER = (
    "<|channel|>analysis<|message|>They ask <b>.<|end|><|start|>assistant<|channel|>commentary"
    "<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>It is 4 < 5."
)
PIECES = [(True, "They ask <b>."), (False, "I look."), (False, "It is 4 < 5.")]


@pytest.fixture
def tokenizer(tmp_path):
    write_tokenizer(tmp_path, dict.fromkeys(sorted(CHANNEL_TOKENS), True))
    return Tokenizer(tmp_path, {}).with_template(TEMPLATE)


@pytest.mark.parametrize("size", [1, 2, 5, 11, 400])
def test_channels_are_told_apart_however_the_text_comes(size):
    thinking, found = Thinking("<|start|>user<|message|>x<|end|>" + TURN), []
    for at in range(0, len(ANSWER), size):
        found += thinking.push(ANSWER[at : at + size])
    found += thinking.finish()
    for kind in (True, False):
        wanted = "".join(text for is_thought, text in PIECES if is_thought is kind)
        assert "".join(text for is_thought, text in found if is_thought is kind) == wanted


@pytest.mark.parametrize(
    ("begin", "end"), [("<|channel>thought", "<channel|>"), ("[THINK]", "[/THINK]")]
)
def test_thoughts_between_special_tokens_are_told_apart_however_the_text_comes(
    begin, end, tmp_path
):
    """As Gemma 4 and Mistral's models write them."""
    text = f"{begin}\nThey ask <b>.\n{end}It is 4 < 5."
    write_tokenizer(tmp_path, dict.fromkeys((begin.removesuffix("thought"), end), True))
    tokenizer = Tokenizer(tmp_path, {}).with_template(f"{begin} {end}")
    ids = tokenizer.encode(text)
    generation = Generation(tokenizer, max_tokens=len(ids))
    pieces = [generation.take(np.eye(1, 512, i)[0]).text for i in ids] + [generation.closing.text]
    for cut in (pieces, list(text), [text]):
        thinking = Thinking("<|turn>model\n")
        found = [part for piece in cut for part in thinking.push(piece)] + thinking.finish()
        thought = "".join(piece for is_thought, piece in found if is_thought)
        assert thought.strip() == "They ask <b>."
        assert "".join(piece for is_thought, piece in found if not is_thought) == "It is 4 < 5."


def test_a_model_without_channels_may_write_such_words():
    text = "it ends with <|end|> or <|channel|>final<|message|>"
    assert parted(text, "<|im_start|>assistant\n") == ("", text)


def test_the_markup_of_channels_is_part_of_the_text_where_the_template_has_them(tokenizer):
    ids = tokenizer.encode(ANSWER)
    assert len(ids) < len(ANSWER)  # special tokens, not their letters
    for shown, wanted in ((tokenizer, ANSWER), (tokenizer.with_template("{{ 1 }}"), None)):
        generation = Generation(shown, max_tokens=len(ids))
        text = "".join(generation.take(np.eye(1, 512, i)[0]).text for i in ids)
        assert text + generation.closing.text == (wanted or tokenizer.decode(ids))


def test_the_next_turn_is_given_the_answer_alone(tmp_path, monkeypatch, tokenizer):
    folder = build(tmp_path / "m", family="qwen3_moe", form="mlx-q4")
    model = moeflux.load(folder, memory="64MiB", context=256)
    monkeypatch.setattr(moeflux.Model, "tokenizer", tokenizer)
    prompts = []

    def answered(model, ids, *, session, history, **options):
        prompts.append(tokenizer.decode([*history, *ids], skip_special_tokens=False))
        yield Part(ANSWER[:50], 1)
        yield Part(ANSWER[50:], 2)
        yield Part("", finish_reason="eos")

    monkeypatch.setattr(conversation, "stream_generate", answered)
    monkeypatch.setattr(Conversation, "_feed", lambda *args: True)
    talk = Conversation(model)
    assert "".join(part.text for part in talk.reply("one")) == ANSWER
    assert talk.messages[-1] == {"role": "assistant", "content": "I look.It is 4 < 5."}
    list(talk.reply("two"))
    assert "analysis" not in prompts[1] and prompts[1].endswith("two<|end|>" + TURN)
