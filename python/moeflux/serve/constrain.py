"""Grammars that answers follow, by llguidance: compiled once, then a mask of tokens a step."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import one_of, show
from ..errors import SessionError
from .engine import EngineError

KINDS = ("json_schema", "json", "regex", "lark", "gbnf")
MAX_SOURCE = 1 << 20  # characters
MAX_GBNF = 1 << 16  # characters: its parser is in Python, and holds the interpreter
MAX_KEPT = 64  # compiled grammars
# Default is any run of white space: a model that likes it would never say anything else.
JSON_OPTIONS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}", "coerce_one_of": True}


class Matcher:
    """The Constraint of one choice (`engine.Constraint`)."""

    def __init__(self, matcher: Any, n_words: int) -> None:
        self._matcher, self._n_words = matcher, n_words

    def mask(self) -> NDArray[np.uint32]:
        """uint32 (ceil(vocab / 32),): bit i of word w allows token 32 * w + i.

        Raises:
            EngineError: the grammar has become too complex here.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)
        if self._matcher.is_error():
            raise EngineError(f"[grammar] {_first_line(self._matcher.get_error())}")
        return bits[: self._n_words]

    def consume(self, token: int) -> None:
        """Goes on after a token that the mask allowed. Raises EngineError for another one."""
        if not self._matcher.consume_token(token):
            raise EngineError(f"[grammar] {_first_line(self._matcher.get_error())}")

    @property
    def stopped(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())


class Compiled:
    """A grammar (`engine.Grammar`): each choice starts from a copy."""

    def __init__(self, matcher: Any, n_words: int) -> None:
        self._matcher, self._n_words = matcher, n_words

    def start(self) -> Matcher:
        """A Constraint at the beginning of the grammar."""
        return Matcher(self._matcher.deep_copy(), self._n_words)


class Compiler:
    """Compiles grammars for one tokenizer, and keeps the last ones. Any thread may call it.

    Args:
        tokenizer: text of tokenizer.json.
        ends: tokens that end a text.
        vocab_size: width of the logits.
    """

    def __init__(self, tokenizer: str, ends: Iterable[int], vocab_size: int) -> None:
        self._source, self._ends, self._vocab_size = tokenizer, sorted(ends), vocab_size
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._kept: OrderedDict[tuple[str, str, bool], Compiled] = OrderedDict()

    def compile(self, kind: str, source: str, strict: bool = True) -> Compiled:
        """See `Engine.compile`. llguidance's limits bound its time and memory.

        Raises:
            SessionError: no such kind, or a source that is wrong or too large.
        """
        rule = one_of(KINDS)
        if not rule.fits(kind):
            raise SessionError(f"[grammar] kind: expected {rule.expected}, found {show(kind)}")
        most = MAX_GBNF if kind == "gbnf" else MAX_SOURCE
        if len(source) > most:
            raise SessionError(f"[grammar] expected at most {most} characters, found "
                               f"{len(source)}")  # fmt: skip
        key = kind, source, strict
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = Compiled(self._matcher(_grammar(kind, source, strict)), -(-self._vocab_size // 32))
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return found

    def _matcher(self, grammar: str) -> Any:
        import llguidance

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = llguidance.LLTokenizer(
                    self._source, n_vocab=self._vocab_size, eos_token=self._ends
                )
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise SessionError(f"[grammar] {_first_line(matcher.get_error())}")
        return matcher


def _grammar(kind: str, source: str, strict: bool) -> str:
    import llguidance
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if kind in ("json", "json_schema"):
        schema: Any = {"type": "object"}
        if kind == "json_schema":
            try:
                schema = json.loads(source)
            except (ValueError, RecursionError) as error:
                raise SessionError(f"[grammar] expected a schema in JSON, found: {error}") from None
        if not isinstance(schema, dict | bool):
            raise SessionError(f"[grammar] expected a JSON schema, found {show(schema)}")
        options: Any = JSON_OPTIONS | {"lenient": not strict}
        try:
            found = llguidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema), overrides=options
            )
        except (ValueError, RecursionError) as error:
            raise SessionError(f"[grammar] {_first_line(str(error))}") from None
        return str(found)
    if kind == "gbnf":
        try:
            source = gbnf_to_lark(source)
        except Exception as error:  # a parser in Python, of no errors of its own
            raise SessionError(f"[grammar] expected GBNF, found: {show(str(error))}") from None
    if kind == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(source))
    return str(llguidance.LLMatcher.grammar_from_lark(source))


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else "the grammar cannot be followed"
