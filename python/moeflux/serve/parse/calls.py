"""Tool calls out of text that comes in pieces. What is no call is given back as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from .literals import Literals
from .markup import JsonForm, LiteralForm, Markup, PairForm


class CallParser(Protocol):
    """One call, without its tags.

    Attributes:
        name: of the tool, as soon as it is known to be one.
        done: the call is over, its closing tag included.
        broken: this is no call; nothing of it has been given out.
        rest: what came behind the call, or behind what is known to be none. Where that begins does
            not depend on the pieces.
        again: another call follows in the same tags.
    """

    name: str | None
    done: bool
    broken: bool
    rest: str
    again: bool

    def push(self, text: str) -> str:
        """More text; returns more of the arguments' JSON text."""


class JsonScanner:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self, depth: int = 0) -> None:
        self._depth, self._quoted, self._escaped = depth, False, False

    def end(self, text: str) -> tuple[int, bool]:
        """(characters of `text` that are the object's, whether it is over).

        A "<" outside of quotes is a tag behind an object that was left open.
        """
        for at, letter in enumerate(text):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif letter == "\\":
                    self._escaped = True
                elif letter == '"':
                    self._quoted = False
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1, True
            elif letter == "<":
                return at, True
        return len(text), False


MAX_HEAD = 1024  # characters from a call's tag to its arguments; a longer head is none


class _Call:
    """What a CallParser of any form has: a name first, a closing tag last."""

    def __init__(self, markup: Markup, tools: Mapping[str, Any]) -> None:
        self.name: str | None = None
        self.done = self.broken = self.again = False
        self.rest = ""
        self._close, self._tools = markup.call[1], tools
        self._buffer = ""

    def _begins(self, pattern: re.Pattern[str]) -> bool:
        """Whether the head has come. One that names no tool breaks the call."""
        head = pattern.match(self._buffer, 0, MAX_HEAD)
        if head is None:
            return False
        group = next(at for at, text in enumerate(head.groups(), 1) if text)
        if head[group] in self._tools:
            self.name, self._buffer = head[group], self._buffer[head.end() :]
        else:
            self._break(head.end(group))
        return True

    def _ends_without_head(self) -> None:
        """Breaks the call where its end has come, or the arguments of one that has no end."""
        if (at := self._buffer.find(self._close or "{", 0, MAX_HEAD)) >= 0:
            self._break(at + len(self._close))
        elif len(self._buffer) >= MAX_HEAD:
            self._break(MAX_HEAD)

    def _break(self, at: int) -> None:
        self.broken, self.rest = True, self._buffer[at:]

    def _find_close(self) -> None:
        if (at := self._buffer.find(self._close)) >= 0:
            self.done, self.rest = True, self._buffer[at + len(self._close) :]


class JsonCall(_Call):
    """Arguments that are a JSON object. They are given out as they come."""

    def __init__(self, form: JsonForm, markup: Markup, tools: Mapping[str, Any]) -> None:
        super().__init__(markup, tools)
        self._form = form
        self._scanner = JsonScanner()
        self._whole: int | None = None  # where a call without a known head ends
        self._scanned = 0
        self._closing = False  # the arguments are over
        self._outer = JsonScanner(1)  # of the object that they are in
        self._rest: int | None = None  # where that ends

    def push(self, text: str) -> str:
        """More text; returns more of the arguments."""
        self._buffer += text
        out = ""
        if self.name is None:
            if self._begins(self._form.head):
                self._scanner, self._scanned = JsonScanner(), 0
            elif self._form.keys:
                return self._all_at_once()
            else:
                self._ends_without_head()
            if self.name is None:
                return ""
        if not self._closing:
            count, self._closing = self._scanner.end(self._buffer)
            out, self._buffer = self._buffer[:count], self._buffer[count:]
        if self._closing and self._form.more:
            self._find_end()
        elif self._closing:
            self._find_close()
        return out

    def _ends_without_head(self) -> None:
        """Of a list of objects: where the first of them ends, or what is none begins."""
        if not self._form.more or self._close:
            return super()._ends_without_head()
        text = self._buffer[:MAX_HEAD].lstrip()
        if text and text[0] not in self._form.around[0] + "{":
            self._break(self._buffer.index(text[0]))
        elif (at := self._buffer.find("}", 0, MAX_HEAD)) >= 0:
            self._break(at + 1)
        elif len(self._buffer) >= MAX_HEAD:
            self._break(MAX_HEAD)

    def _find_end(self) -> None:
        """Behind the arguments: the rest of the object, then another one, or the list's end."""
        if self._rest is None:
            count, over = self._outer.end(self._buffer[self._scanned :])
            self._scanned += count
            if not over:
                return
            self._rest = self._scanned
        behind = self._buffer[self._rest :].lstrip()
        more, end = self._form.more, self._form.around[1]
        if behind.startswith(more):
            following = behind[len(more) :].lstrip()
            if not following:
                return
            if not following.startswith(end):
                self.done = self.again = True
                self.rest = behind[len(more) :]
                return
            behind = following
        if self._close:
            self._find_close()
        elif behind:
            self.done, self.rest = True, behind.removeprefix(end)

    def _all_at_once(self) -> str:
        """The arguments of a call whose keys come in another order, once it is whole."""
        if self._whole is None:
            count, over = self._scanner.end(self._buffer[self._scanned :])
            self._scanned += count
            if not over:
                return ""
            self._whole = self._scanned
        end = self._buffer.find(self._close, self._whole)
        if end < 0:
            return ""
        try:
            found = json.loads(self._buffer[: self._whole])
            name, given = found["name"], found.get("arguments", found.get("parameters"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            name, given = None, None
        if not isinstance(given, dict) or not isinstance(name, str) or name not in self._tools:
            self._break(end + len(self._close))
            return ""
        self.name, self._buffer = name, self._buffer[self._whole :]
        self._find_close()
        return _written(given)


class PairCall(_Call):
    """Arguments that come one by one, each in tags. Texts are given out as they come."""

    def __init__(self, form: PairForm, markup: Markup, tools: Mapping[str, Any]) -> None:
        super().__init__(markup, tools)
        self._form = form
        self._properties: Mapping[str, Any] = {}
        self._count = 0  # parameters so far
        self._kind: str | None = None  # of the parameter that is open: "text" or "other"

    def push(self, text: str) -> str:
        """More text; returns more of the arguments."""
        self._buffer += text
        out = ""
        if self.name is None:
            if not self._begins(self._form.head):
                self._ends_without_head()
            if self.name is None:
                return ""
            properties = self._tools[self.name].get("properties")
            self._properties = properties if isinstance(properties, dict) else {}
        while not self.done:
            more = self._value() if self._kind else self._between()
            if more is None:
                break
            out += more
        return out

    def _between(self) -> str | None:
        """The head of the next parameter, or the end; None where more text is needed."""
        head = self._form.parameter.match(self._buffer)
        if head and not (self._buffer[head.end() - 1] == ">" and head.end() == len(self._buffer)):
            self._buffer = self._buffer[head.end() :]
            self._kind = "text" if self._is_text(head[1]) else "other"
            self._count += 1
            key = json.dumps(head[1], ensure_ascii=False)
            quote = '"' if self._kind == "text" else ""
            return f"{'{' if self._count == 1 else ', '}{key}: {quote}"
        self._find_close()
        if not self.done:
            return None
        return "}" if self._count else "{}"

    def _is_text(self, name: str) -> bool:
        schema = self._properties.get(name)
        kind = schema.get("type") if isinstance(schema, dict) else None
        return kind == "string" or (kind is None and not _has_alternatives(schema))

    def _value(self) -> str | None:
        """What has come of a value; None where nothing can be said yet."""
        found = self._form.end.search(self._buffer)
        if self._kind == "text":
            cut = found.start() if found else max(len(self._buffer) - self._form.longest_end + 1, 0)
            value, self._buffer = self._buffer[:cut], self._buffer[cut:]
            out = json.dumps(value, ensure_ascii=False)[1:-1]
        else:
            if not found:
                return None
            value = self._buffer[: found.start()]
            out = _as_json(value)
        if not found:
            return out or None
        end = self._form.end.search(self._buffer)
        assert end is not None
        self._buffer = self._buffer[end.end() :]
        out += '"' if self._kind == "text" else ""
        self._kind = None
        return out


class LiteralCall(_Call):
    """Arguments that are literals with names. They are given out as they come."""

    def __init__(self, form: LiteralForm, markup: Markup, tools: Mapping[str, Any]) -> None:
        super().__init__(markup, tools)
        self._form = form
        self._literals = Literals(form.close, form.sign, form.quotes)

    def push(self, text: str) -> str:
        """More text; returns more of the arguments."""
        self._buffer += text
        if self.name is None:
            if not self._begins(self._form.head):
                self._ends_without_head()
            if self.name is None:
                return ""
        out = self._literals.push(self._buffer)
        self._buffer = ""
        if self._literals.over or self._literals.lost:
            self._find_end(self._literals.rest)
        return out

    def _find_end(self, left: str) -> None:
        """Behind the arguments: another call, or the closing tag."""
        behind, more = left.lstrip(), self._form.more
        if more and self._literals.over and behind.startswith(more):
            following = behind[len(more) :].lstrip()
            if not following:
                return  # a call, or the end of a list with a comma behind its last item
            if not following.startswith(self._form.around[1]):
                self.done = self.again = True
                self.rest = behind[len(more) :]
                return
        self._buffer = left
        self._find_close()
        self._buffer = ""


def _has_alternatives(schema: Any) -> bool:
    return isinstance(schema, dict) and any(key in schema for key in ("anyOf", "oneOf", "$ref"))


def _written(value: Any) -> str:
    """A value as JSON. Halves of surrogate pairs, which no UTF-8 has, stay escapes."""
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if any("\ud800" <= letter <= "\udfff" for letter in text) else text


def _as_json(value: str) -> str:
    """A value that is not text by its schema: JSON if it is, else what Python's words mean."""
    words = {"True": "true", "False": "false", "None": "null"}
    text = words.get(value.strip(), value.strip())
    try:
        return _written(json.loads(text))
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)


class EitherCall:
    """A call of the markup's form, or an object of a list: what comes first tells which."""

    def __init__(self, markup: Markup, tools: Mapping[str, Any]) -> None:
        self._markup, self._tools = markup, tools
        self._begun: str | None = ""
        self._one: CallParser = new_call(replace(markup, also=None), tools)

    name = property(lambda self: self._one.name)
    done = property(lambda self: self._one.done)
    broken = property(lambda self: self._one.broken)
    rest = property(lambda self: self._one.rest)
    again = property(lambda self: self._one.again)

    def push(self, text: str) -> str:
        """More text; returns more of the arguments."""
        if self._begun is None:
            return self._one.push(text)
        self._begun += text
        also = self._markup.also
        assert also is not None
        first = self._begun.lstrip().removeprefix(also.around[0]).lstrip()
        if not first and len(self._begun) < MAX_HEAD:
            return ""
        if first.startswith("{"):
            self._one = JsonCall(also, self._markup, self._tools)
        text, self._begun = self._begun, None
        return self._one.push(text)


def new_call(markup: Markup, tools: Mapping[str, Any]) -> CallParser:
    """A parser for the next call. REQUIRES: the markup has a form of calls."""
    form = markup.form
    assert form is not None
    if markup.also:
        return EitherCall(markup, tools)
    if isinstance(form, JsonForm):
        return JsonCall(form, markup, tools)
    if isinstance(form, LiteralForm):
        return LiteralCall(form, markup, tools)
    return PairCall(form, markup, tools)
