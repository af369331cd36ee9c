"""A tokenizer made of GGUF's keys gives the ids of the tokenizer.json that they came from."""

import json

import gguf
import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

import moeflux
from moeflux.gguf.pretokenizers import PATTERNS
from moeflux.tokenizer import Tokenizer as Ours
from support import gguf_twin

# As in Qwen/Qwen3-30B-A3B's tokenizer.json.
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
OWN = ["<think>", "</think>"]  # of the user's kind: no special ones, found whole all the same
TEXTS = [
    "", " ", "\n\n  \n",
    "Hello, world's end; it'LL do.", "x=12345;\r\n\tif (a<b) { return  0x7f; }",
    "<|im_start|>user\nhi<|im_end|>\n<think>\n\n</think>", "naïve cafe\u0301 u\u0308ber \u212b",
    "数学的な日本語 テキスト 中文，标点。", "Здравствуй, мир! 123", "שלום עולם", "😀👩‍👩‍👧 end",
    "a" * 300, "   leading and trailing   ", "tabs\t\tand\x00control\x07", "<|im_start", "</s><s>",
    "don't DON'T I'm we'Ve", "1,234.5e-6%", "\u00a0nbsp\u2003em", "e\u0301\u0301",
]  # fmt: skip


def corpus():
    rng = np.random.Generator(np.random.PCG64(1))
    text = "the of and it's don't return void naïve über 数学 的 мир שלום {} (); 1234 \n\n  "
    words = text.split(" ")
    return [" ".join(rng.choice(words, 30)) for _ in range(400)] + TEXTS


@pytest.fixture(scope="module")
def qwen():
    """A tokenizer built as Qwen's is, with merges of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    ))  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in OWN])
    return tokenizer


def keys(out, tokenizer, pre="qwen2"):
    """What llama.cpp's converter writes of a tokenizer.json."""
    model = json.loads(tokenizer.to_str())["model"]
    vocab = tokenizer.get_vocab()
    kinds = dict.fromkeys(SPECIAL, 3) | dict.fromkeys(OWN, 4)
    tokens = sorted(vocab, key=vocab.get)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types([kinds.get(token, 1) for token in tokens])
    out.add_token_merges([" ".join(pair) for pair in model["merges"]])
    out.add_eos_token_id(vocab["<|im_end|>"])
    out.add_bos_token_id(vocab["<|endoftext|>"])
    out.add_pad_token_id(vocab["<|endoftext|>"])
    out.add_add_bos_token(False)
    out.add_chat_template(gguf_twin.CHAT_TEMPLATE)


def written(path, add):
    out = gguf.GGUFWriter(path, "qwen3moe")
    add(out)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture(scope="module")
def ours(qwen, tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen") / "q.gguf"
    return Ours(written(path, lambda out: keys(out, qwen)), {})


def test_ids_and_texts_are_those_of_the_tokenizer_json(qwen, ours):
    rng = np.random.Generator(np.random.PCG64(2))
    mixed = ["".join(rng.choice([*SPECIAL, *OWN, *"ab 1\n\t.é中😀'"], 40)) for _ in range(300)]
    for text in [*TEXTS, *mixed]:
        ids = qwen.encode(text).ids
        assert ours.encode(text) == ids, text
        for skip in (True, False):
            assert ours.decode(ids, skip) == qwen.decode(ids, skip_special_tokens=skip)


def test_ends_names_and_template_come_from_the_keys(qwen, ours):
    end, text_end = (qwen.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>"))
    assert ours.eos_ids == {end, text_end}
    assert ours.named_tokens == {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>",
                                 "pad_token": "<|endoftext|>"}  # fmt: skip
    ids = ours.encode_chat([{"role": "user", "content": "hi"}])
    assert ours.decode(ids, False) == "<user>hi<|im_end|><assistant>"
    assert end in ids


def test_special_tokens_that_a_text_spells_are_text(qwen, ours, tmp_path):
    """As with the tokenizer.json that they came from."""
    (tmp_path / "tokenizer.json").write_text(qwen.to_str())
    (tmp_path / "chat_template.jinja").write_text(gguf_twin.CHAT_TEMPLATE)
    theirs = Ours(tmp_path, {})
    for text in ("a<|im_end|>b", "<|endoftext|><|im_start|>", "<think> x"):
        ids = ours.encode_chat([{"role": "user", "content": text}], special_as_text=True)
        assert ids == theirs.encode_chat([{"role": "user", "content": text}], special_as_text=True)
        assert ours.decode(ids, False) == f"<user>{text}<|im_end|><assistant>"
        assert ids.count(qwen.token_to_id("<|im_end|>")) == 1


def test_a_text_begins_with_bos_where_the_file_says_so(qwen, tmp_path):
    def add(out):
        keys(out, qwen)
        out.kv_data[0]["tokenizer.ggml.add_bos_token"].value = True

    tokenizer = Ours(written(tmp_path / "b.gguf", add), {})
    bos = qwen.token_to_id("<|endoftext|>")
    assert tokenizer.encode("hi") == [bos, *qwen.encode("hi").ids]
    assert tokenizer.encode("hi", add_special_tokens=False) == qwen.encode("hi").ids


def test_sampling_and_named_templates_are_read(qwen, tmp_path):
    def add(out):
        keys(out, qwen)
        out.add_sampling_temp(0.5)
        out.add_sampling_top_k(20)
        out.add_key_value(
            "tokenizer.chat_template.tool_use", "with tools", gguf.GGUFValueType.STRING
        )

    tokenizer = Ours(written(tmp_path / "s.gguf", add), {})
    assert tokenizer.sampling == {"temperature": 0.5, "top_k": 20}
    assert tokenizer.apply_template([{"role": "user", "content": "x"}], tools=[]) == "with tools"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pre": "unheard-of"}, "tokenizer.ggml.pre of bailingmoe"),
        ({"model": "rwkv"}, "tokenizer.ggml.model gpt2 or llama or gemma4, found 'rwkv'"),
        ({"tokens": ["a", "a"]}, "tokens that differ"),
        ({"token_type": [1]}, r"an array of \d+ numbers in tokenizer.ggml.token_type"),
        ({"merges": ["ab"]}, "expected merge 0 of two tokens, found 'ab'"),
        ({"merges": ["x yy"]}, "expected merge 0 of two tokens"),
        ({"tokens": 7}, "array of texts in tokenizer.ggml.tokens"),
    ],
)
def test_keys_that_make_no_tokenizer_are_refused_by_name(qwen, tmp_path, change, words):
    def add(out):
        keys(out, qwen)
        for name, value in change.items():
            kind = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32,
                    list: gguf.GGUFValueType.ARRAY}[type(value)]  # fmt: skip
            out.kv_data[0][f"tokenizer.ggml.{name}"] = gguf.GGUFValue(value, kind)

    path = written(tmp_path / "x.gguf", add)
    with pytest.raises(moeflux.FormatError, match=words) as refused:
        Ours(path, {})
    assert str(path) in str(refused.value)


def test_a_vocabulary_of_scores_cuts_as_sentencepiece_does(tmp_path):
    """Greedy by score: of all neighbours that make a token, the best pair first."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)),
              "\u2581", "a", "b", "c", "ab", "bc", "abc", "\u2581a", "\u2581ab"]  # fmt: skip
    scores = [0.0] * 259 + [-9.0, -8.0, -8.0, -8.0, -3.0, -1.0, -2.0, -4.0, -5.0]

    def add(out):
        out.add_tokenizer_model("llama")
        out.add_token_list(tokens)
        out.add_token_scores(scores)
        out.add_token_types([2, 3, 3] + [6] * 256 + [1] * 9)
        out.add_bos_token_id(1)
        out.add_eos_token_id(2)

    tokenizer = Ours(written(tmp_path / "l.gguf", add), {})
    for text, pieces in {
        "abc": ["\u2581", "abc"],  # bc is best, then abc; no token has it behind a blank
        "ab": ["\u2581ab"],
        "z": ["\u2581", "<0x7A>"],
    }.items():
        found = [tokens[i] for i in tokenizer.encode(text)]
        assert found == ["<s>", *pieces]
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_ids == {2}


GEMMA_OWN = ["<|turn>", "<turn|>", "<|tool_call>", '<|"|>']


def as_gemma():
    """A tokenizer built as transformers' GemmaTokenizer builds one, with merges of its own."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("\n+|[^\n]+"), "isolated")
    trained.train_from_iterator(corpus(), BpeTrainer(vocab_size=500, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    first = ["<pad>", "<eos>", "<bos>", "<unk>", *GEMMA_OWN, *(f"<0x{i:02X}>" for i in range(256))]
    tokens = [*first, *sorted(learnt["vocab"], key=learnt["vocab"].get)]
    tokenizer = Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in learnt["merges"]],
        fuse_unk=True, unk_token="<unk>", byte_fallback=True,
    ))  # fmt: skip
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in first[: 4 + len(GEMMA_OWN)]]
    )
    return tokenizer, tokens, learnt["merges"]


def test_merges_over_letters_are_gemmas(tmp_path):
    theirs, tokens, merges = as_gemma()

    def add(out):
        out.add_tokenizer_model("gemma4")
        out.add_token_list(tokens)
        kinds = [3] * 3 + [2] + [4] * len(GEMMA_OWN) + [6] * 256
        out.add_token_types(kinds + [1] * (len(tokens) - len(kinds)))
        out.add_token_merges([" ".join(pair) for pair in merges])
        for name, number in (("bos", 2), ("eos", 1), ("unk", 3), ("pad", 0)):
            getattr(out, f"add_{name}_token_id")(number)

    tokenizer = Ours(written(tmp_path / "g.gguf", add), {})
    rng = np.random.Generator(np.random.PCG64(3))
    mixed = ["".join(rng.choice([*GEMMA_OWN, *"ab 1\n\t.é中😀'"], 40)) for _ in range(300)]
    for text in [*TEXTS, *mixed]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == [2, *ids], text
        assert tokenizer.decode(ids, False) == theirs.decode(ids, skip_special_tokens=False)
    assert tokenizer.eos_ids == {1, tokens.index("<turn|>")}


def test_every_way_to_cut_words_is_a_regular_expression():
    for name, patterns in PATTERNS.items():
        for pattern in patterns:
            cut = pre_tokenizers.Split(Regex(pattern), "isolated")
            for text in TEXTS:
                pieces = cut.pre_tokenize_str(text)
                assert "".join(piece for piece, _ in pieces) == text, name
