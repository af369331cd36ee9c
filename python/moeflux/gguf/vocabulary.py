"""The tokenizer that a GGUF file's keys describe (`tokenizer.ggml.*`), built with `tokenizers`.

Vocabularies of merges over bytes ("gpt2": Qwen, Llama 3, DeepSeek, ...), SentencePiece's of scores
("llama": Mixtral) and merges over letters ("gemma4"). Ids are those of the model's own
tokenizer.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arguments import FLAG, TEXT, Rule, is_integer, show
from ..errors import MoefluxError
from ..safetensors_header import fail
from .keys import scalar
from .pretokenizers import BEGINS, COMPOSED, PATTERNS, WHOLE_WORDS
from .splits import read_all

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_KEY = "tokenizer.ggml."
_ID = Rule("an integer", is_integer)  # -1: there is none
_MOST_PAIRS = 1 << 22  # of a vocabulary of scores; those of 256,000 tokens have less
_MOST_TEXTS = 1 << 20  # tokens, merges; real vocabularies have half a million of these
# Tokens that end a text wherever a vocabulary has them among its special ones.
ENDS = frozenset((
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "</s>",
    "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "<eos>", "<turn|>", "[e~[",
    "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
))  # fmt: skip
# What is not the end of a text beside these (harmony: it ends a message).
_HARMONY, _MESSAGE_END = {"<|return|>", "<|call|>"}, "<|end|>"
# Recommended sampling, by the names of `generate`.
_SAMPLING = {"temperature": "temp", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
             "repetition_penalty": "penalty_repeat"}  # fmt: skip


class Vocabulary(NamedTuple):
    """What a tokenizer is made of.

    Attributes:
        tokenizer: of `tokenizers`.
        eos_ids: tokens that end a text.
        named: texts of bos_token, eos_token and others.
        templates: chat templates, "default" and others by their names.
        sampling: arguments of `generate` that the file recommends, by name.
    """

    tokenizer: Any
    eos_ids: frozenset[int]
    named: dict[str, str]
    templates: dict[str, str]
    sampling: dict[str, Any]


class _Keys:
    """The keys of a file, and its tokens."""

    def __init__(self, metadata: dict[str, Any], path: Path) -> None:
        self.metadata, self.path = metadata, path
        found = [token or f"[EMPTY_{i}]" for i, token in enumerate(self.texts("tokens"))]
        self.tokens = found
        self.ids = {token: i for i, token in enumerate(found)}
        if len(self.ids) != len(found):
            raise self.bad(f"expected {len(found)} tokens that differ, found {len(self.ids)}")
        types = self.get("token_type")
        self.types = [_NORMAL] * len(found) if types is None else self.numbers("token_type")

    def bad(self, what: str) -> Exception:
        return fail("tokenizer", what, self.path)

    def get(self, key: str) -> Any:
        return self.metadata.get(_KEY + key)

    def scalar(self, key: str, rule: Rule, default: Any = None) -> Any:
        """A key that holds no array."""
        return scalar(self.metadata, _KEY + key, rule, self.path, default, "tokenizer")

    def numbers(self, key: str) -> list[Any]:
        """A number for each token."""
        value = self.get(key)
        if not isinstance(value, np.ndarray) or len(value) != len(self.tokens):
            raise self.bad(f"expected an array of {len(self.tokens)} numbers in {_KEY}{key}, found "
                           f"{show(value)}")  # fmt: skip
        numbers: list[Any] = value.tolist()
        return numbers

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.bad(f"expected an array of texts in {_KEY}{key}, found {show(value)}")
        if len(value) > _MOST_TEXTS:
            raise self.bad(f"expected at most {_MOST_TEXTS} texts in {_KEY}{key}, found "
                           f"{len(value)}")  # fmt: skip
        try:
            return [text.decode() for text in value]
        except UnicodeDecodeError:
            raise self.bad(f"expected UTF-8 in {_KEY}{key}") from None

    def id(self, name: str, default: int | None = None) -> int | None:
        """The id of the token that is named so; None where there is none."""
        value = self.scalar(f"{name}_token_id", _ID, default)
        return value if value is not None and 0 <= value < len(self.tokens) else None


def read(path: Path) -> Vocabulary:
    """The vocabulary of a model, given any of its files.

    Raises:
        IoError: a file cannot be read.
        FormatError: a kind of vocabulary that is not known, or keys that contradict each other.
    """
    keys = _Keys(read_all(path)[0].metadata, path)
    kind = keys.scalar("model", TEXT)
    if kind not in _KINDS:
        raise keys.bad(f"expected {_KEY}model {' or '.join(_KINDS)}, found {show(kind)}")
    try:
        tokenizer, begins = _KINDS[kind](keys)
        _add_special(tokenizer, keys)
        bos = keys.id("bos", 1 if kind == "llama" else None)
        if bos is not None and keys.scalar("add_bos_token", FLAG, begins):
            _begin_with(tokenizer, keys.tokens[bos], bos)
    except BaseException as error:  # `tokenizers` panics with a BaseException of its own
        if isinstance(error, (KeyboardInterrupt, SystemExit, MoefluxError)):
            raise
        raise keys.bad(f"expected a tokenizer, found: {str(error)[:300]}") from None
    return Vocabulary(tokenizer, _ends(keys, kind), _named(keys), _templates(keys), _sampling(keys))


def _of_merges(keys: _Keys) -> tuple[Any, bool]:
    """The tokenizer, and whether a text begins with bos where no key says so."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = keys.scalar("pre", TEXT)
    if pre not in PATTERNS:
        raise keys.bad(f"expected a {_KEY}pre of {', '.join(sorted(PATTERNS))}, found {show(pre)}")
    model = models.BPE(vocab=keys.ids, merges=_merges(keys), ignore_merges=pre in WHOLE_WORDS)
    tokenizer = Tokenizer(model)
    if pre in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[pre]]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, pre in BEGINS


def _merges(keys: _Keys) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(keys.texts("merges")):
        cut = line.find(" ", 1)  # a part may be a blank
        left, right = line[:cut], line[cut + 1 :]
        if cut < 0 or not {left, right} <= keys.ids.keys():
            raise keys.bad(f"expected merge {number} of two tokens, found {show(line)}")
        if left + right in keys.ids:  # else nothing comes of it
            pairs.append((left, right))
    return pairs


def _of_scores(keys: _Keys) -> tuple[Any, bool]:
    """As `_of_merges`, for SentencePiece's rule: of all pairs that are a token, the best first."""
    return _of_letters(keys, _pairs(keys, keys.numbers("scores")), keys.id("unknown", 0),
                       keys.scalar("add_space_prefix", FLAG, True))  # fmt: skip


def _of_gemma(keys: _Keys) -> tuple[Any, bool]:
    """As `_of_scores`, of merges that the file lists."""
    return _of_letters(keys, _merges(keys), keys.id("unknown"),
                       keys.scalar("add_space_prefix", FLAG, False))  # fmt: skip


def _of_letters(
    keys: _Keys, merges: list[tuple[str, str]], unknown: int | None, has_prefix: bool
) -> tuple[Any, bool]:
    """Merges over letters and marks for spaces; bytes stand for letters that are no tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    model = models.BPE(
        vocab=keys.ids,
        merges=merges,
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if unknown is None else keys.tokens[unknown],
    )
    tokenizer = Tokenizer(model)
    replaced = normalizers.Replace(" ", _SPACE)
    before = [normalizers.Prepend(_SPACE)] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, replaced])
    after = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return tokenizer, True


def _pairs(keys: _Keys, scores: list[float]) -> list[tuple[str, str]]:
    left_out = (_CONTROL, _UNKNOWN, _BYTE, _UNUSED)
    ids = {token: i for token, i in keys.ids.items() if keys.types[i] not in left_out}
    found = []
    for token, i in ids.items():
        if len(token) > _LONGEST:
            raise keys.bad(f"expected tokens of at most {_LONGEST} letters, found {len(token)}")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                found.append((-scores[i], ids[left], ids[right]))
        if len(found) > _MOST_PAIRS:
            raise keys.bad(f"expected at most {_MOST_PAIRS} pairs that are tokens, found more")
    found.sort()
    return [(keys.tokens[left], keys.tokens[right]) for _, left, right in found]


_LONGEST = 128  # letters; each may begin a pair
_KINDS = {"gpt2": _of_merges, "llama": _of_scores, "gemma4": _of_gemma}


def _add_special(tokenizer: Any, keys: _Keys) -> None:
    """Tokens that are found in a text before it is cut: control tokens, and the user's own."""
    from tokenizers import AddedToken

    added = [(i, kind) for i, kind in enumerate(keys.types)
             if kind in (_CONTROL, _UNKNOWN, _USER_DEFINED)]  # fmt: skip
    tokenizer.add_tokens(
        [AddedToken(keys.tokens[i], special=kind != _USER_DEFINED, normalized=False)
         for i, kind in added]
    )  # fmt: skip
    for i, _ in added:
        if tokenizer.token_to_id(keys.tokens[i]) != i:
            raise keys.bad(f"expected id {i} of {show(keys.tokens[i])}, found "
                           f"{tokenizer.token_to_id(keys.tokens[i])}")  # fmt: skip


def _begin_with(tokenizer: Any, token: str, number: int) -> None:
    """Sets a token before every text. By a name of ours: "$" and ":" have a meaning in names."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=["bos", "$A"],
        special_tokens=[{"id": "bos", "ids": [number], "tokens": [token]}],
    )


def _ends(keys: _Keys, kind: str) -> frozenset[int]:
    named = {keys.id("eos", 2 if kind == "llama" else None), keys.id("eot"), keys.id("eom")}
    known = {token: i for token in ENDS
             if (i := keys.ids.get(token)) is not None
             and keys.types[i] in (_CONTROL, _USER_DEFINED)}  # fmt: skip
    if known.keys() >= _HARMONY:
        known.pop(_MESSAGE_END, None)
    return frozenset({i for i in named if i is not None} | set(known.values()))


def _named(keys: _Keys) -> dict[str, str]:
    ids = {f"{to}_token": keys.id(name) for name, to in
           (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))}  # fmt: skip
    return {name: keys.tokens[i] for name, i in ids.items() if i is not None}


def _templates(keys: _Keys) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    found = {
        key[len(prefix) + 1 :] or "default": value
        for key, value in keys.metadata.items()
        if key == prefix or key.startswith(f"{prefix}.")
    }
    return {name: text for name, text in found.items() if TEXT.fits(text)}


def _sampling(keys: _Keys) -> dict[str, Any]:
    found = {name: keys.metadata.get(f"general.sampling.{key}") for name, key in _SAMPLING.items()}
    return {name: value for name, value in found.items() if value is not None}
