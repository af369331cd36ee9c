"""Literals with names, in a notation near Python's or JSON's, become JSON as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from ...pieces import begun

MAX_DEPTH = 100
_PAIRS = {"{": "}", "[": "]", "(": ")"}
_WORDS = {"True": "true", "False": "false", "None": "null",
          "true": "true", "false": "false", "null": "null"}  # fmt: skip
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BARE_KEY = re.compile(r"[^\s\"'<>()\[\]{},:=]+")
_BEHIND_BARE = re.compile(r"[,\"'<>()\[\]{}]")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5})|x([0-9a-fA-F]{2})|([^uUx]))",
                     re.DOTALL)  # fmt: skip
_BEGUN_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7}|x[0-9a-fA-F]?)?")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "",
            "\\": "\\", "/": "/", '"': '"', "'": "'"}  # fmt: skip


@dataclass
class _Open:
    """A list or an object that has not ended."""

    close: str
    is_object: bool
    sign: str  # between key and value
    n_items: int = 0


class Literals:
    """Named literals, from behind their opening bracket to their closing one.

    A bare value that is no number and no word of Python or JSON is a text, for small models forget
    quotes.

    Args:
        close: the bracket that ends them.
        sign: between a name and its value; within objects it is a colon.
        quotes: of texts. One of several characters ends a text where it comes next; in texts
            between single ones a backslash escapes.

    Attributes:
        over: the closing bracket has come.
        lost: this is no such thing, from somewhere on; no more comes of it.
        rest: what has not been read.
    """

    def __init__(self, close: str, sign: str, quotes: tuple[str, ...]) -> None:
        self._quotes = quotes
        self._open = [_Open(close, True, sign)]
        self._read: Callable[[], str | None] = self._first
        self._quote = ""
        self._is_key = False
        self.over = self.lost = False
        self.rest = ""

    def push(self, text: str) -> str:
        """More text; returns more of the JSON text of an object."""
        self.rest += text
        out = ""
        while not self.over and not self.lost:
            more = self._read()
            if more is None:
                break
            out += more
        return out

    def _first(self) -> str:
        self._read = self._item
        return "{"

    def _next(self) -> str:
        """The next character that is no space; "" where none has come."""
        self.rest = self.rest.lstrip()
        return self.rest[:1]

    def _lose(self) -> str:
        self.lost = True
        return ""

    def _item(self) -> str | None:
        """The beginning of a key or an item, or the closing bracket."""
        letter, inner = self._next(), self._open[-1]
        if not letter:
            return None
        if letter == inner.close:
            return self._ended()
        comma = ", " if inner.n_items else ""
        if not inner.is_object:
            inner.n_items += 1
            self._read = self._value
            return comma
        key = self._key()
        inner.n_items += key is not None
        return comma + key if key else key

    def _key(self) -> str | None:
        """A bare key, or the quote of another."""
        text = self._text_begins(is_key=True)
        if text is not None:
            return text
        bare = _BARE_KEY.match(self.rest)
        if bare is None:
            return None if begun(self.rest, self._quotes) == len(self.rest) else self._lose()
        if bare.end() == len(self.rest):
            return None
        self.rest, self._read = self.rest[bare.end() :], self._sign
        return json.dumps(bare[0], ensure_ascii=False)

    def _sign(self) -> str | None:
        letter = self._next()
        if not letter:
            return None
        if letter != self._open[-1].sign:
            return self._lose()
        self.rest, self._read = self.rest[1:], self._value
        return ": "

    def _value(self) -> str | None:
        letter = self._next()
        if not letter:
            return None
        text = self._text_begins(is_key=False)
        if text is not None:
            return text
        if letter in _PAIRS:
            return self._nested(letter)
        end = _BEHIND_BARE.search(self.rest)
        if end is None or begun(self.rest, self._quotes) == len(self.rest):
            return None
        bare = self.rest[: end.start()].strip()
        if not bare or end[0] not in (",", self._open[-1].close):
            return self._lose()
        self.rest = self.rest[end.start() :]
        self._read = self._behind
        is_number = _NUMBER.fullmatch(bare) is not None
        return bare if is_number else _WORDS.get(bare) or json.dumps(bare, ensure_ascii=False)

    def _nested(self, letter: str) -> str | None:
        if len(self._open) >= MAX_DEPTH:
            return self._lose()
        self.rest = self.rest[1:]
        self._open.append(_Open(_PAIRS[letter], letter == "{", ":"))
        self._read = self._item
        return "{" if letter == "{" else "["

    def _behind(self) -> str | None:
        """Behind a value: a comma or the closing bracket."""
        letter = self._next()
        if not letter:
            return None
        if letter == self._open[-1].close:
            return self._ended()
        if letter != ",":
            return self._lose()
        self.rest, self._read = self.rest[1:], self._item
        return ""

    def _ended(self) -> str:
        self.rest = self.rest[1:]
        closed = self._open.pop()
        self.over, self._read = not self._open, self._behind
        return "}" if closed.is_object else "]"

    def _text_begins(self, is_key: bool) -> str | None:
        """The quote of a text, if it is one."""
        quote = next((quote for quote in self._quotes if self.rest.startswith(quote)), None)
        if quote is None:
            return None
        self.rest, self._quote, self._is_key = self.rest[len(quote) :], quote, is_key
        self._read = self._text
        return '"'

    def _text(self) -> str | None:
        """What has come of a text."""
        is_escaped = len(self._quote) == 1
        found = self.rest.find(self._quote)
        escape = self.rest.find("\\") if is_escaped else -1
        if escape >= 0 and (found < 0 or escape < found):
            out, more = self._taken(escape), self._escape()
            return out + more if more is not None else out or None
        if found < 0:
            return self._taken(len(self.rest) - begun(self.rest, (self._quote,))) or None
        out = self._taken(found)
        self.rest = self.rest[len(self._quote) :]
        self._read = self._sign if self._is_key else self._behind
        return out + '"'

    def _taken(self, count: int) -> str:
        text, self.rest = self.rest[:count], self.rest[count:]
        return json.dumps(text, ensure_ascii=False)[1:-1]

    def _escape(self) -> str | None:
        """The character that a backslash and what follows stand for; others stay as written."""
        found = _ESCAPE.match(self.rest)
        if found is None:
            if _BEGUN_ESCAPE.fullmatch(self.rest):
                return None
            return self._taken(1)
        code = next(filter(None, found.groups()[:3]), None)
        if code is not None and int(code, 16) > 0x10FFFF:
            return self._taken(1)
        if code is None and found[4] not in _ESCAPED:
            return self._taken(1)
        letter = _ESCAPED[found[4]] if code is None else chr(int(code, 16))
        self.rest = self.rest[found.end() :]
        # Halves of a pair of \u stay as they are written: JSON puts them together.
        return json.dumps(letter, ensure_ascii="\ud800" <= letter <= "\udfff")[1:-1]
