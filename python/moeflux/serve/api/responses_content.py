"""The items and tools of /v1/responses, read by hand: an error names the very item."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..dialogue import Call, Dialogue, ToolSpec, Turn, arranged, checked_tools, tool
from ..http.errors import bad
from .chat import EFFORTS
from .content import ROLES, call_of, output_of, text_of, tool_choice
from .schema.responses import ResponsesBody

NOT_STORED = "nothing is stored here; replay the full input instead"
CALLS = ("function_call", "custom_tool_call")
RESULTS = ("function_call_output", "custom_tool_call_output")
CUSTOM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
          "additionalProperties": False}  # fmt: skip


@dataclass
class ToolNames:
    """What the tools of a request are called on the wire and by the model.

    Attributes:
        namespaced: (namespace, name) by the name that the model has for a tool.
        custom: tools whose input is text, not JSON.
    """

    namespaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    custom: set[str] = field(default_factory=set)

    def inner(self, namespace: Any, name: Any) -> Any:
        """The name that the model has for a tool."""
        return f"{namespace}__{name}" if isinstance(namespace, str) and namespace else name


def tools(
    given: list[dict[str, Any]], warnings: list[str]
) -> tuple[tuple[ToolSpec, ...], ToolNames]:
    """The functions, those of namespaces and custom ones, too; tools that a server runs are not."""
    names, found = ToolNames(), []
    for i, item in enumerate(given):
        where = f"tools[{i}]"
        if item.get("type") != "namespace":
            found += _tool(item, where, names, warnings)
            continue
        inner, space = item.get("tools"), item.get("name")
        if not isinstance(inner, list) or not isinstance(space, str):
            raise bad("expected a name and a list of tools", where)
        for j, one in enumerate(inner):
            if not isinstance(one, dict):
                raise bad("expected a tool, an object", f"{where}.tools[{j}]")
            name = names.inner(space, one.get("name"))
            names.namespaced[name] = (space, str(one.get("name")))
            found += _tool({**one, "name": name}, f"{where}.tools[{j}]", names, warnings)
    return checked_tools(found, "tools"), names


def _tool(
    item: Mapping[str, Any], where: str, names: ToolNames, warnings: list[str]
) -> list[ToolSpec]:
    kind, name = item.get("type"), item.get("name")
    if kind == "custom":
        names.custom.add(str(name))
        form = item.get("format")
        if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
            warnings.append(f"{where}.format is left out: the input is not held to it")
        return [tool(name, item.get("description"), CUSTOM, False, where)]
    if kind != "function":
        warnings.append(f"{where} ({str(kind)[:40]}) is left out: no server runs it here")
        return []
    given = item.get("parameters")
    return [tool(name, item.get("description"), given, item.get("strict"), where)]


def dialogue_of(body: ResponsesBody, warnings: list[str]) -> tuple[Dialogue, ToolNames]:
    """The meaning of a body; what is left out is added to `warnings`."""
    for name in ("previous_response_id", "conversation"):
        if getattr(body, name):
            raise bad(NOT_STORED, name)
    if body.background:
        raise bad("answers are not made in the background here", "background")
    known, names = tools(body.tools or [], warnings)
    choice, known = tool_choice(body.tool_choice, known)
    turns = [Turn("system", body.instructions, where="instructions")] if body.instructions else []
    if isinstance(body.input, str):
        turns.append(Turn("user", body.input, where="input"))
    else:
        turns += _Reader(names, warnings).read(body.input)
        if not body.input:
            raise bad("expected at least one item", "input")
    effort = (body.reasoning or {}).get("effort")
    if effort is not None and effort not in EFFORTS:
        raise bad(f"expected one of {', '.join(EFFORTS)}", "reasoning.effort")
    form = (body.text or {}).get("format")
    if form is not None and not isinstance(form, dict):
        raise bad("expected an object", "text.format")
    return Dialogue(
        arranged(turns, "input"), known, choice, body.parallel_tool_calls is not False,
        output_of(form, "text.format"), None if effort is None else effort != "none",
        {} if effort in (None, "none") else {"reasoning_effort": effort},
    ), names  # fmt: skip


class _Reader:
    """Items to turns: reasoning, text and calls of one answer are one turn."""

    def __init__(self, names: ToolNames, warnings: list[str]) -> None:
        self._names, self._warnings = names, warnings
        self._turns: list[Turn] = []
        self._answer: dict[str, Any] = {}

    def read(self, items: list[dict[str, Any]]) -> list[Turn]:
        for i, item in enumerate(items):
            self._item(item, f"input[{i}]")
        self._end_answer()
        return self._turns

    def _item(self, item: Mapping[str, Any], where: str) -> None:
        kind = item.get("type", "message")
        if kind == "message":
            self._message(item, where)
        elif kind in CALLS:
            call = self._call(item, kind, where)
            self._open(where)["calls"].append(call)
        elif kind == "reasoning":
            if self._answer.get("calls") or any(self._answer.get("text", ())):
                self._end_answer()
            self._open(where)["reasoning"].append(_reasoning(item, where))
        elif kind in RESULTS:
            self._end_answer()
            call_id = item.get("call_id")
            if not isinstance(call_id, str):
                raise bad("expected the id of a call", f"{where}.call_id")
            text = text_of(item.get("output"), f"{where}.output")
            self._turns.append(Turn("tool", text, call_id=call_id, where=where))
        elif kind == "item_reference":
            raise bad(NOT_STORED, where)
        else:
            self._warnings.append(f"{where} ({str(kind)[:40]}) is left out")

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or ROLES.get(role, "tool") == "tool":
            raise bad(f"expected system, developer, user or assistant, found {str(role)[:40]!r}",
                      f"{where}.role")  # fmt: skip
        text = text_of(item.get("content"), f"{where}.content")
        if role == "assistant":
            if self._answer.get("calls"):
                self._end_answer()
            self._open(where)["text"].append(text)
            return
        self._end_answer()
        self._turns.append(Turn(ROLES[role], text, where=where))

    def _call(self, item: Mapping[str, Any], kind: str, where: str) -> Call:
        name = self._names.inner(item.get("namespace"), item.get("name"))
        given = item.get("arguments")
        if kind == "custom_tool_call":
            given = {"input": text_of(item.get("input"), f"{where}.input")}
        return call_of(item.get("call_id"), name, given, where)

    def _open(self, where: str) -> dict[str, Any]:
        if not self._answer:
            self._answer = {"text": [], "reasoning": [], "calls": [], "where": where}
        return self._answer

    def _end_answer(self) -> None:
        if self._answer:
            found = self._answer
            self._turns.append(Turn(
                "assistant", "".join(found["text"]), "".join(found["reasoning"]) or None,
                tuple(found["calls"]), where=found["where"],
            ))  # fmt: skip
        self._answer = {}


def _reasoning(item: Mapping[str, Any], where: str) -> str:
    """What was thought: said openly, or in the form that we gave it out in."""
    content = item.get("content")
    if content:
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") == "reasoning_text":
                part["type"] = "text"
        return text_of(content, f"{where}.content")
    return opened(item.get("encrypted_content"))


def sealed(text: str) -> str:
    """Reasoning as `encrypted_content`: for a client to give back, not to keep it secret."""
    return base64.b64encode(text.encode()).decode()


def opened(sealed_text: Any) -> str:
    """The reasoning in an `encrypted_content`; "" for another server's."""
    try:
        return base64.b64decode(sealed_text, validate=True).decode()
    except (TypeError, ValueError, binascii.Error):
        return ""
