"""`Dialogue`: what a request means. Knows no wire format: dialects make it, `render` reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from .http.errors import bad

MAX_TOOLS, MAX_TOOL_BYTES = 512, 1 << 20
NAME = re.compile(r"[\w.-]{1,128}\Z", re.ASCII)


@dataclass(frozen=True)
class Call:
    """A call of a tool in an earlier answer; `arguments` is JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Turn:
    """A message.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        text: its content.
        reasoning: of an answer; None where there is none.
        calls: of an answer.
        call_id: of a tool's result: the call that it answers.
        mark: the client says that other requests begin as this does up to here.
        where: the path of the message in the body, for errors.
    """

    role: str
    text: str = ""
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    mark: bool = False
    where: str = "messages"


@dataclass(frozen=True)
class ToolSpec:
    """A function that the model may call. Strict: its arguments are held to the schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False

    def schema(self) -> dict[str, Any]:
        """As chat templates are given it."""
        function = {"name": self.name, "description": self.description,
                    "parameters": self.parameters}  # fmt: skip
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class OutputRule:
    """What the content must be: kind and source as `Engine.compile` takes them."""

    kind: str
    source: str = ""
    strict: bool = True


@dataclass(frozen=True)
class Dialogue:
    """A request, whatever API it came by.

    Attributes:
        turns: at least one; a system turn is the first only. An assistant's turn at the end is
            gone on with.
        tools: what may be called.
        choice: "auto", "none", "required", or the name of the tool to call.
        parallel: several calls in one answer are welcome.
        output: a rule of the content, or None.
        thinking: whether to reason first; None leaves it to the template.
        variables: more of the template.
    """

    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    output: OutputRule | None = None
    thinking: bool | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def tool(name: Any, description: Any, parameters: Any, strict: Any, where: str) -> ToolSpec:
    """A checked tool. Raises ApiError that names the field."""
    if not isinstance(name, str) or not NAME.match(name):
        raise bad("expected a name of 1 to 128 letters, digits and _.-", f"{where}.name")
    if description is not None and not isinstance(description, str):
        raise bad("expected text", f"{where}.description")
    schema = {"type": "object", "properties": {}} if parameters is None else parameters
    check_schema(schema, f"{where}.parameters")
    return ToolSpec(name, description or "", schema, strict is True)


def check_schema(schema: Any, where: str) -> None:
    """Refuses what is no JSON schema by its shape, and references that lead out of it."""
    if not isinstance(schema, dict):
        raise bad("expected a JSON schema, an object", where)
    left: list[Any] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise bad(f"$ref {reference[:80]!r} leads out of the schema", where)
            left += value.values()
        elif isinstance(value, list):
            left += value


def checked_tools(tools: list[ToolSpec], where: str) -> tuple[ToolSpec, ...]:
    """The tools, if they are not too many or too large. A name that comes again counts once."""
    if len(tools) > MAX_TOOLS:
        raise bad(f"expected at most {MAX_TOOLS} tools, found {len(tools)}", where)
    if len(json.dumps([t.schema() for t in tools])) > MAX_TOOL_BYTES:
        raise bad(f"expected tools of at most {MAX_TOOL_BYTES} bytes in all", where)
    return tuple({t.name: t for t in tools}.values())


def arguments(value: Any, where: str) -> str:
    """The arguments of an earlier call as JSON text, from text or an object."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        raise bad("expected JSON text or an object", where)
    try:
        found = json.loads(value or "{}")
    except (ValueError, RecursionError):
        raise bad(f"expected the JSON text of an object, found {value[:80]!r}", where) from None
    if not isinstance(found, dict):
        raise bad("expected the JSON text of an object", where)
    return value or "{}"


def is_object(text: str) -> bool:
    """Whether a text is JSON of an object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def arranged(turns: list[Turn], where: str) -> tuple[Turn, ...]:
    """Turns as templates take them: one system turn, at the beginning.

    System turns at the beginning become one. A later one stays where it is, as words of the user:
    at the beginning it would change all that was computed before it.

    Raises:
        ApiError: there are no turns, or a tool's result answers no call.
    """
    if not turns:
        raise bad("expected at least one message", where)
    head = list(takewhile(lambda turn: turn.role == "system", turns))
    found: list[Turn] = []
    if head:
        text = "\n\n".join(turn.text for turn in head if turn.text)
        found.append(replace(head[0], text=text, mark=any(turn.mark for turn in head)))
    open_calls: set[str] = set()
    for turn in turns[len(head) :]:
        if turn.role == "tool" and turn.call_id not in open_calls:
            raise bad(f"no call before it has the id {turn.call_id[:80]!r}", turn.where)
        open_calls |= {call.id for call in turn.calls}
        found.append(replace(turn, role="user") if turn.role == "system" else turn)
    return tuple(found)
