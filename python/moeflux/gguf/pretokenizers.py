"""How vocabularies of merges cut a text into words, by the names that GGUF gives their ways.

Each is the regular expression of the models' own tokenizer.json, or several, of which each splits
what the one before has left. The names are llama.cpp's.
"""

from __future__ import annotations

_BREAKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT_FORMS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _words(digits: str, letters: str = r"\p{L}") -> str:
    """Short forms, words with a sign before them, digits, signs, blanks: Llama 3 and its kin."""
    inner = letters if letters == r"\p{L}" else f"[{letters}]"
    return (rf"{_SHORT_FORMS}|[^\r\n\p{{L}}\p{{N}}]?{inner}+|{digits}| ?[^\s{letters}\p{{N}}]+"
            rf"[\r\n]*|{_BREAKS}")  # fmt: skip


def _cased(ending: str, digits: str, after: str, without: str = "") -> str:
    """Words end where capitals begin: GPT-4o and its kin."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    sign = r"[^\r\n\p{L}\p{N}]?"
    return (rf"{sign}{upper}*{lower}+{ending}|{sign}{upper}+{lower}*{ending}|{digits}"
            rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n{after}]*|{_BREAKS}")  # fmt: skip


_LLAMA3, _QWEN2 = _words(r"\p{N}{1,3}"), _words(r"\p{N}")
_GPT4O = _cased(f"{_SHORT_FORMS}?", r"\p{N}{1,3}", "/")
_KIMI = r"\p{Han}+|" + _cased(f"{_SHORT_FORMS}?", r"\p{N}{1,3}", "", r"&&[^\p{Han}]")
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|""" + _BREAKS,
)
_BAILING = _QWEN2.replace(_SHORT_FORMS, "'(?i:[sdmt]|ll|ve|re)").replace(
    r"\s*[\r\n]+", r"\s*[\r\n]"
)

_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral lfm2 smaug-bpe dbrx chatglm-bpe glm4 "
     "glm5", (_LLAMA3,)),
    ("qwen2 deepseek-r1-qwen megrez stablelm2 hunyuan solar-open grok-2", (_QWEN2,)),
    ("qwen35", (_words(r"\p{N}", r"\p{L}\p{M}"),)),
    ("gpt-4o llama4 kanana2 minimax-m2", (_GPT4O,)),
    ("tekken", (_cased("", r"\p{N}", "/"),)),
    ("kimi-k2", (_KIMI,)),
    ("deepseek-v3 hunyuan-dense", _DEEPSEEK3),
    ("bailingmoe bailingmoe2 llada-moe", (_BAILING,)),
    ("gpt-2 phi-2 exaone4 mpt olmo jais trillion granite-docling", (_GPT2,)),
    ("starcoder refact command-r smollm codeshell exaone", (r"\p{N}", _GPT2)),
)  # fmt: skip
# Patterns by `tokenizer.ggml.pre`.
PATTERNS = {name: patterns for names, patterns in _ROWS for name in names.split()}
# Where a word that is a token is taken before any merge is tried.
WHOLE_WORDS = frozenset((
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2", "glm4", "glm5",
    "tekken",
))  # fmt: skip
# Where a text begins with bos unless `tokenizer.ggml.add_bos_token` says otherwise.
BEGINS = WHOLE_WORDS - {"glm4", "glm5"}
# Where letters and their marks are composed first (NFC), which llama.cpp leaves out.
COMPOSED = frozenset({"qwen2", "qwen35"})
