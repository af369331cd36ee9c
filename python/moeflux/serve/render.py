"""`Renderer`: a Dialogue becomes token ids, by the chat template of a model."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SessionError, TemplateError
from .dialogue import Call, Dialogue, Turn, is_object
from .http.errors import bad
from .parse.markup import find_markup

MAX_REPLAYED = 32 << 20  # characters of calls that are remembered
MAX_MARKS = 6
TAIL = 8  # ids at the end of a prompt, in which reasoning may begin
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens, positions that other prompts share, and whether it ends in reasoning."""

    ids: list[int]
    marks: tuple[int, ...] = ()
    opened: bool = False


class Replay:
    """Calls as the model wrote them, by their ids, and what it thought before.

    Clients give arguments back with other spaces, and some give no reasoning back. Either would
    make another prompt of what has been computed.
    """

    def __init__(self) -> None:
        self._written: OrderedDict[str, tuple[str, str | None]] = OrderedDict()
        self._lock = threading.Lock()
        self._size = 0

    def keep(self, call_id: str, arguments: str, reasoning: str | None) -> None:
        """Remembers a call that has been given out, unless it was cut short."""
        if not is_object(arguments):
            return
        with self._lock:
            self._written[call_id] = arguments, reasoning
            self._size += _size(arguments, reasoning)
            while self._size > MAX_REPLAYED:
                self._size -= _size(*self._written.popitem(last=False)[1])

    def _find(self, call: Call) -> tuple[str, str | None]:
        with self._lock:
            return self._written.get(call.id, (call.arguments, None))

    def arguments(self, call: Call) -> str:
        """The arguments as they were written, where they mean the same as the client's."""
        written = self._find(call)[0]
        return written if json.loads(written) == json.loads(call.arguments) else call.arguments

    def reasoning(self, turn: Turn) -> str | None:
        """The reasoning of a turn, or what was thought before its first call."""
        if turn.reasoning is not None or not turn.calls:
            return turn.reasoning
        return self._find(turn.calls[0])[1]


def _size(arguments: str, reasoning: str | None) -> int:
    return len(arguments) + len(reasoning or "") + 256  # for what holds them


class Renderer:
    """Renders for one model. Safe in threads: call it beside the event loop.

    Args:
        tokenizer: of the model; it has the chat template.
    """

    def __init__(self, tokenizer: Any, reasoning: str = "auto") -> None:
        self.tokenizer, self.replay = tokenizer, Replay()
        template = tokenizer.chat_template or ""
        markup = find_markup(template)
        self.markup = markup if reasoning == "auto" else markup.without_thinking()
        self._text_arguments = markup.text_arguments or "arguments is string" in template

    def render(self, dialogue: Dialogue, check: Callable[[int], None] | None = None) -> Prompt:
        """The prompt of a request.

        Args:
            dialogue: what is said.
            check: refuses a length, before marks are looked for.

        Raises:
            ApiError: the template refuses it, there is none, or what `check` raises.
        """
        messages = [self._message(turn) for turn in dialogue.turns]
        go_on = dialogue.turns[-1].role == "assistant" and not dialogue.turns[-1].calls
        ids = self._encode(messages, dialogue, continue_final_message=go_on)
        if check is not None:
            check(len(ids))
        tail = self.tokenizer.decode(ids[-TAIL:], skip_special_tokens=False).rstrip()
        opened = self.markup.think is not None and tail.endswith(self.markup.think[0])
        return Prompt(ids, self._marks(ids, messages, dialogue, go_on), opened)

    def text(self, dialogue: Dialogue) -> str:
        """What the template makes of it, as text."""
        messages = [self._message(turn) for turn in dialogue.turns]
        try:
            return str(self.tokenizer.apply_template(messages, **self._options(dialogue)))
        except (TemplateError, SessionError) as error:
            raise bad(str(error), "messages") from None

    def _encode(self, messages: list[dict[str, Any]], dialogue: Dialogue, **more: Any) -> list[int]:
        options = {**self._options(dialogue), "special_as_text": True, **more}
        try:
            found: list[int] = self.tokenizer.encode_chat(messages, **options)
        except (TemplateError, SessionError) as error:
            raise bad(str(error), "messages") from None
        return found

    def _options(self, dialogue: Dialogue) -> dict[str, Any]:
        variables = dict(dialogue.variables)
        if dialogue.thinking is not None:
            variables.setdefault("enable_thinking", dialogue.thinking)
        use = dialogue.tools and dialogue.choice != "none"
        tools = [tool.schema() for tool in dialogue.tools] if use else None
        return {"tools": tools, "chat_template_kwargs": variables}

    def _message(self, turn: Turn) -> dict[str, Any]:
        """A turn as templates know it."""
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        reasoning = self.replay.reasoning(turn)
        if reasoning is not None and not (self.markup.again and turn.calls and turn.text):
            message[self.markup.reasoning] = reasoning
        if turn.role == "tool":
            message["tool_call_id"] = self._id(turn.call_id)
        if turn.calls:
            message["tool_calls"] = [self._call(call) for call in turn.calls]
        return message

    def _call(self, call: Call) -> dict[str, Any]:
        written = self.replay.arguments(call)
        given = written if self._text_arguments else json.loads(written)
        function = {"name": call.name, "arguments": given}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _id(self, call_id: str) -> str:
        """A call's id as the template takes it: as long as it asks for, if it asks."""
        length = self.markup.id_length
        return call_id[-length:].rjust(length, "0")  # 0: all of it

    def _marks(
        self, ids: list[int], messages: list[dict[str, Any]], dialogue: Dialogue, go_on: bool
    ) -> tuple[int, ...]:
        """Where prompts that begin as this one does will part from it: the ends of system and
        tools, of turns that the client marks, and of the last turn.
        """  # noqa: D205
        turns, found = dialogue.turns, set()
        marked = [i + 1 for i, turn in enumerate(turns) if turn.mark and turn.role != "system"]
        first = [{"role": "user", "content": "."}]
        if turns[0].role == "system":
            first = [messages[0], *first]
        heads = [first, *(messages[:i] for i in marked[-MAX_MARKS:])]
        if not go_on and len(turns) not in marked:
            heads.append(messages)
        for head in heads:
            try:
                begin = self._encode(head, dialogue, add_generation_prompt=False)
            except Exception:  # half a talk is more than this template takes
                continue
            found.add(_common(ids, begin))
        return tuple(sorted(mark for mark in found if 0 < mark < len(ids)))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
