"""`Parser`: the text of one choice in, events out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ...pieces import begun
from ..dialogue import is_object
from ..engine import TokenLogprob
from ..events import CallArguments, CallStart, Event, Reasoning, Text
from .calls import CallParser, new_call
from .markup import Markup

logger = logging.getLogger("moeflux.serve")


class Parser:
    """Tells reasoning, content and calls of tools apart.

    White space beside tags belongs to them. A call that is none (no JSON, no such tool) is
    content.

    Args:
        choice: index, for the events.
        markup: of the model.
        tools: schemas of arguments by the name of a tool; of none, calls are content.
        opened: the prompt ends within reasoning.
        whole: give a call out once it is known to be good; else as it comes.
        parallel: give out more than one call.
        new_id: makes the id of a call.
    """

    def __init__(
        self,
        choice: int,
        markup: Markup,
        tools: Mapping[str, Any],
        *,
        opened: bool,
        whole: bool,
        parallel: bool,
        new_id: Callable[[], str],
    ) -> None:
        self._choice, self._markup, self._tools = choice, markup, tools
        self._whole, self._parallel, self._new_id = whole, parallel, new_id
        calls = (markup.call[0], *(markup.section or ())) if tools and markup.form else ()
        self._tags = [*calls, *markup.skipped]
        if markup.again and markup.think is not None:
            self._tags.append(markup.think[0])
        self._in_reasoning = opened and markup.think is not None
        self._may_think = markup.think is not None and not opened
        self._strip = self._in_reasoning  # white space behind a tag
        self._buffer = ""
        self._call: CallParser | None = None
        self._raw = ""  # of the call
        self._arguments = ""
        self._started = False  # the call has been given out
        self._pending: list[TokenLogprob] = []
        self.n_calls = 0
        self.n_reasoning = 0  # tokens

    def push(
        self, text: str, tokens: int = 0, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> list[Event]:
        """More text, of so many tokens."""
        if self._in_reasoning:
            self.n_reasoning += tokens
        self._pending += logprobs
        self._buffer += text
        return self._events(self._advance(False))

    def finish(self) -> list[Event]:
        """What is left at the end."""
        return self._events(self._advance(True))

    def _events(self, found: list[Event]) -> list[Event]:
        """The same, neighbours of one kind joined; logprobs go with the content they made."""
        out: list[Event] = []
        for item in found:
            last = out[-1] if out else None
            if isinstance(item, Text) and isinstance(last, Text):
                out[-1] = Text(self._choice, last.text + item.text)
            else:
                out.append(item)
        texts = [at for at, item in enumerate(out) if isinstance(item, Text)]
        if texts and self._pending:
            at = texts[-1]
            out[at] = Text(self._choice, out[at].text, tuple(self._pending))  # type: ignore[union-attr]
        if out or self._in_reasoning or self._strip or self._call is not None:
            self._pending = []
        return out

    def _advance(self, ended: bool) -> list[Event]:
        out: list[Event] = []
        while True:
            if self._call is not None:
                again = self._in_call(ended, out)
            elif self._in_reasoning:
                again = self._reasoning(ended, out)
            else:
                again = self._content(ended, out)
            if not again:
                return out

    def _reasoning(self, ended: bool, out: list[Event]) -> bool:
        assert self._markup.think is not None
        close = self._markup.think[1]
        at = self._buffer.find(close)
        text = self._take(at, [close], ended)
        if text and at >= 0:
            text = text.rstrip()
        if text:
            out.append(Reasoning(self._choice, text))
        if at < 0:
            return False
        self._buffer = self._buffer[len(close) :]
        self._in_reasoning, self._may_think, self._strip = False, False, True
        return True

    def _content(self, ended: bool, out: list[Event]) -> bool:
        if self._may_think and self._markup.think:
            think, text = self._markup.think[0], self._buffer.lstrip()
            if text.startswith(think):
                self._buffer = text[len(think) :]
                self._may_think, self._in_reasoning, self._strip = False, True, True
                return True
            if think.startswith(text) and not ended:
                return False
            self._may_think = False
        at, tag = self._find_tag(ended)
        text = self._take(at, self._tags, ended)
        text = text.rstrip() if at >= 0 else text
        if text:
            out.append(Text(self._choice, text))
        if at < 0 or not tag:
            return False
        self._buffer, self._strip = self._buffer[len(tag) :], True
        if tag == self._markup.call[0]:
            self._open_call(tag)
        elif self._markup.think and tag == self._markup.think[0]:
            self._in_reasoning = True
        return True

    def _open_call(self, tag: str) -> None:
        self._call = new_call(self._markup, self._tools)
        self._raw, self._arguments, self._started = tag, "", False

    def _find_tag(self, ended: bool) -> tuple[int, str]:
        """Where the first tag is, and which, the longest; "" where it may become a longer one."""
        found = [(at, -len(tag), tag) for tag in self._tags if (at := self._buffer.find(tag)) >= 0]
        at, _, tag = min(found, default=(-1, 0, ""))
        rest = self._buffer[at:]
        if tag and not ended and any(t.startswith(rest) and len(t) > len(rest) for t in self._tags):
            return at, ""
        return at, tag

    def _take(self, at: int, tags: list[str], ended: bool) -> str:
        """Text up to a tag, or all that can belong to no tag; without a tag's white space."""
        if self._strip:
            stripped = self._buffer.lstrip()
            at -= len(self._buffer) - len(stripped) if at >= 0 else 0
            self._buffer = stripped
            self._strip = not stripped
        if at < 0 and not ended and tags:
            held = begun(self._buffer, tags)
            at = len(self._buffer[: len(self._buffer) - held].rstrip())
        elif at < 0:
            at = len(self._buffer)
        text, self._buffer = self._buffer[:at], self._buffer[at:]
        return text

    def _in_call(self, ended: bool, out: list[Event]) -> bool:
        call = self._call
        assert call is not None
        given, self._buffer = self._buffer, ""
        if given:
            self._raw += given
            self._arguments += self._give(call, call.push(given), out)
        elif ended and self._markup.ends and not call.done:  # the token that ended it was the tag
            self._arguments += self._give(call, call.push(self._markup.call[1]), out)
        if call.done or call.broken:
            self._buffer = call.rest
            self._raw = self._raw[: len(self._raw) - len(call.rest)]
        if call.broken or (call.done and not self._finish_call(call, out)):
            return self._as_text(call, out)
        if call.done:
            self._call, self._strip = None, True
            if call.again:
                self._open_call("")
            return True
        if ended and not self._started:
            return self._as_text(call, out)
        return False

    def _give(self, call: CallParser, more: str, out: list[Event]) -> str:
        """Gives out what has come of a call, unless it is held until it is whole."""
        if self._whole or call.name is None or (not self._started and self._enough()):
            return more
        if not self._started:
            self._start(call.name, out)
        if more:
            out.append(CallArguments(self._choice, self.n_calls - 1, more))
        return more

    def _enough(self) -> bool:
        return self.n_calls > 0 and not self._parallel

    def _start(self, name: str, out: list[Event]) -> None:
        out.append(CallStart(self._choice, self.n_calls, self._new_id(), name))
        self.n_calls += 1
        self._started = True

    def _finish_call(self, call: CallParser, out: list[Event]) -> bool:
        """Gives out a call that was held. Returns whether it is one."""
        if self._started or self._enough():
            return True
        good = is_object(self._arguments)
        if good and call.name:
            self._start(call.name, out)
            out.append(CallArguments(self._choice, self.n_calls - 1, self._arguments))
        return good

    def _as_text(self, call: CallParser, out: list[Event]) -> bool:
        # What was read of it is not looked at again; what follows is content, and may hold calls.
        if self._raw:
            logger.warning("the model wrote a tool call that is none; it is given as text")
            out.append(Text(self._choice, self._raw))
        self._call, self._strip = None, False
        return bool(self._buffer)
