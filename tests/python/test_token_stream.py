"""Text decoded id by id is the text of all ids, whatever bytes the ids stand for."""

import itertools

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

import moeflux
from moeflux.tokenizer import REPLACEMENT, Tokenizer, TokenStream
from oracle import tokenizer_file

END = 256  # <|im_end|>, skipped in decoding
CHARACTERS = st.sampled_from(["a", " ", "\n", "é", "€", "👦", "\u200d", "\u0301", REPLACEMENT])
PIECES = st.one_of(
    CHARACTERS.map(lambda text: list(text.encode())),
    CHARACTERS.map(lambda text: list(text.encode()[:-1])),  # truncated
    st.integers(0, END).map(lambda token: [token]),
)
BROKEN = st.sampled_from([REPLACEMENT.encode(), "👦".encode()[:-1], b"\xff", b"\x80"]).map(list)
STREAMS = st.one_of(st.lists(BROKEN, min_size=30), st.lists(PIECES, max_size=60)).map(
    lambda pieces: list(itertools.chain(*pieces))
)


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer_file.write_tokenizer(folder)
    return Tokenizer(folder, {})


@pytest.fixture(scope="module")
def of_demo():
    return moeflux.load(memory="24MiB", context=64).tokenizer


def streamed(tokenizer, ids):
    stream = TokenStream(getattr(tokenizer, "_tokenizer", tokenizer))
    pieces = [stream.push(token) for token in ids]
    return [*pieces, stream.finish()]


@settings(max_examples=300, deadline=None)
@given(ids=STREAMS)
def test_any_bytes_stream_as_pythons_own_decoder_reads_them(of_bytes, ids):
    expected = bytes(i for i in ids if i != END).decode(errors="replace")
    assert "".join(streamed(of_bytes, ids)) == expected == of_bytes.decode(ids)


def test_text_that_stays_broken_is_decoded_in_windows(of_bytes):
    stream, ids = of_bytes.stream(), list(REPLACEMENT.encode()) * 300
    text = "".join(stream.push(token) for token in ids)
    assert len(stream._ids) <= 2 * stream.MAX_IDS and text + stream.finish() == 300 * REPLACEMENT


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.one_of(CHARACTERS, st.characters(codec="utf-8"))), data=st.data())
def test_tokens_of_several_bytes_stream_as_they_decode(of_demo, text, data):
    ids = of_demo.encode(text)
    others = st.tuples(st.integers(0, len(ids)), st.integers(0, 4095))
    for at, token in data.draw(st.lists(others, max_size=5)):
        ids.insert(at, token)
    assert "".join(streamed(of_demo, ids)) == of_demo.decode(ids)


def test_text_is_sent_as_soon_as_its_characters_are_whole(of_bytes):
    sent = streamed(of_bytes, list(("é" + 9 * REPLACEMENT + "👦").encode()))
    assert sent[:2] == ["", "é"] and sent[-2:] == [6 * REPLACEMENT + "👦", ""]
    assert "".join(sent[2:-2]) == 3 * REPLACEMENT


WORDS = ["▁world", "▁a", "b", "▁", "▁▁", "</s>", "<s>", ".", REPLACEMENT]
FALLBACK = [f"<0x{byte:02X}>" for byte in "é👦".encode()]


def like_sentencepiece(decoder):
    words = {word: i for i, word in enumerate(WORDS + FALLBACK)}
    found = tokenizers.Tokenizer(models.BPE(words, [], byte_fallback=True))
    found.add_special_tokens(["</s>", "<s>"])
    found.decoder = decoder
    return found


STRIP = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)


def test_a_long_run_of_skipped_tokens_cuts_no_character():
    tokenizer, boy = like_sentencepiece(STRIP), [len(WORDS) + byte for byte in range(2, 6)]
    for n in range(1, 80):
        ids = boy + [WORDS.index("</s>")] * n + 3 * boy
        assert "".join(streamed(tokenizer, ids)) == 4 * "👦"


@pytest.mark.parametrize("decoder", [decoders.Metaspace(), STRIP], ids=["metaspace", "strip"])
@settings(max_examples=500, deadline=None)
@given(picked=st.lists(st.integers(0, len(WORDS) + 2), max_size=40))
def test_spaces_between_words_outlive_skipped_tokens(decoder, picked):
    tokenizer = like_sentencepiece(decoder)
    of_characters = [range(2), range(2, 6)]  # the ids of é and 👦, each whole
    ids = []
    for pick in picked:
        if pick < len(WORDS):
            ids.append(pick)
        elif pick == len(WORDS) + 2:
            ids += [WORDS.index("</s>")] * 40
        else:
            ids += [len(WORDS) + byte for byte in of_characters[pick - len(WORDS)]]
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_bytes_of_tokens_are_those_of_the_text(of_bytes, of_demo):
    text = "def f(x):  # é € 👦\n\treturn x"
    for tokenizer in (of_bytes, of_demo):
        ids = tokenizer.encode(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert of_bytes.token_bytes(END) == b"<|im_end|>"


def test_bytes_of_a_vocabulary_with_byte_fallback(tmp_path, of_bytes):
    vocabulary = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": 2 + byte for byte in range(256)}
    fallback = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    fallback.decoder = decoders.ByteFallback()
    (tmp_path / "tokenizer.json").write_text(fallback.to_str())
    found = Tokenizer(tmp_path, {})
    assert b"".join(map(found.token_bytes, found.encode("aé"))) == "aé".encode()


def test_another_chat_template_leaves_the_first_alone(of_bytes):
    asked = [{"role": "user", "content": "a"}]
    assert of_bytes.apply_template(asked)  # by a process that is kept
    other = of_bytes.with_template("{{ messages[0].content }}!")
    assert other.apply_template(asked) == "a!" and other.chat_template.endswith("!")
    assert of_bytes.chat_template == tokenizer_file.CHAT_TEMPLATE
    assert of_bytes.apply_template(asked) == "<user>a<|im_end|><assistant>"
    assert of_bytes.named_tokens["eos_token"] == "<|im_end|>"
