"""Anthropic's messages and tools, read by hand: an error names the very block."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from ..dialogue import Call, Dialogue, ToolSpec, Turn, arranged, checked_tools, tool
from ..http.errors import bad
from .content import call_of, output_of
from .schema.anthropic import CountBody

ROLES = {"user": "user", "assistant": "assistant"} | dict.fromkeys(
    ("system", "developer", "ctx", "msg"), "system"
)
VOLATILE = "x-anthropic-billing-header:"  # a nonce within would change the prompt of every turn
FUNCTION_TYPES = (None, "custom", "function")
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def dialogue_of(body: CountBody, warnings: list[str]) -> Dialogue:
    """The meaning of a message's body; what is left out is added to `warnings`."""
    known = _tools(body.tools or [], warnings)
    choice, parallel = _choice(body.tool_choice, known)
    turns = [*_system(body.system)]
    for i, message in enumerate(body.messages):
        turns += _turns(message, f"messages[{i}]")
    if not body.messages:
        raise bad("expected at least one message", "messages")
    config = body.output_config or {}
    variables = {}
    if isinstance(config.get("effort"), str):
        variables["reasoning_effort"] = config["effort"]
    given = config.get("format", body.output_format)
    if given is not None and not isinstance(given, dict):
        raise bad("expected an object", "output_config.format")
    return Dialogue(
        arranged(turns, "messages"), known, choice, parallel,
        output_of(given, "output_config.format"), _thinking(body.thinking), variables,
    )  # fmt: skip


def _thinking(given: Mapping[str, Any] | None) -> bool | None:
    """Off unless it is asked for; adaptive leaves it to the template."""
    kind = "disabled" if given is None else given.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise bad("expected enabled, disabled or adaptive", "thinking.type")
    return {"enabled": True, "disabled": False}.get(kind)


def _system(given: str | list[Any] | None) -> list[Turn]:
    blocks = [{"type": "text", "text": given}] if isinstance(given, str) else given or []
    turns = []
    for i, block in enumerate(blocks):
        text = _text(block, f"system[{i}]")
        if text and not text.startswith(VOLATILE):
            turns.append(Turn("system", text, mark=_marked(block), where=f"system[{i}]"))
    return turns


def _marked(block: Any) -> bool:
    return isinstance(block, dict) and block.get("cache_control") is not None


def _text(block: Any, where: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind != "text":
        raise bad(f"blocks of type {str(kind)[:40]!r} are not read here, only text",
                  f"{where}.type")  # fmt: skip
    if not isinstance(block.get("text"), str):
        raise bad("expected text", f"{where}.text")
    return str(block["text"])


def _turns(message: Mapping[str, Any], where: str) -> list[Turn]:
    """The turns of one message: results of tools are turns of their own."""
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise bad(f"expected user, assistant or system, found {str(role)[:40]!r}", f"{where}.role")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise bad("expected text or a list of blocks", f"{where}.content")
    if ROLES[role] == "assistant":
        return [_assistant(content, where)]
    found: list[Turn] = []
    for is_result, run in groupby(enumerate(content), lambda item: _is_result(item[1], role)):
        blocks = [(block, f"{where}.content[{i}]") for i, block in run]
        if is_result:
            found += [_result(block, at) for block, at in blocks]
            continue
        text = "\n".join(_text(block, at) for block, at in blocks)
        mark = any(_marked(block) for block, _ in blocks)
        found.append(Turn(ROLES[role], text, mark=mark, where=blocks[0][1]))
    return found or [Turn(ROLES[role], where=where)]


def _is_result(block: Any, role: str) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result" and role == "user"


def _result(block: Mapping[str, Any], where: str) -> Turn:
    call_id, content = block.get("tool_use_id"), block.get("content")
    if not isinstance(call_id, str):
        raise bad("expected the id of a call", f"{where}.tool_use_id")
    if isinstance(content, list):
        texts = [_text(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
        content = "\n".join(texts)
    if not isinstance(content, str | None):
        raise bad("expected text or a list of blocks", f"{where}.content")
    text = content or ""
    if block.get("is_error"):
        text = f"Error: {text}"
    return Turn("tool", text, call_id=call_id, mark=_marked(block), where=where)


def _assistant(content: list[Any], where: str) -> Turn:
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[Call] = []
    mark = False
    for i, block in enumerate(content):
        at = f"{where}.content[{i}]"
        kind = block.get("type") if isinstance(block, dict) else None
        mark |= _marked(block)
        if kind == "thinking":
            if not isinstance(block.get("thinking"), str):
                raise bad("expected text", f"{at}.thinking")
            reasoning.append(block["thinking"])
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use":
            given = block.get("input")
            calls.append(call_of(block.get("id"), block.get("name"), given, at))
        else:
            texts.append(_text(block, at))
    return Turn(
        "assistant", "".join(texts), "\n".join(reasoning) if reasoning else None, tuple(calls),
        mark=mark, where=where,
    )  # fmt: skip


def _tools(given: list[dict[str, Any]], warnings: list[str]) -> tuple[ToolSpec, ...]:
    """The functions; tools that Anthropic's own servers run are left out."""
    found = []
    for i, item in enumerate(given):
        kind, where = item.get("type"), f"tools[{i}]"
        if kind not in FUNCTION_TYPES:
            warnings.append(f"{where} ({str(kind)[:40]}) is left out: no server runs it here")
            continue
        found.append(tool(
            item.get("name"), item.get("description"), item.get("input_schema"),
            item.get("strict"), where,
        ))  # fmt: skip
    return checked_tools(found, "tools")


def _choice(given: Mapping[str, Any] | None, known: tuple[ToolSpec, ...]) -> tuple[str, bool]:
    if given is None:
        return "auto", True
    kind = given.get("type")
    parallel = given.get("disable_parallel_tool_use") is not True
    if kind == "tool":
        name = given.get("name")
        if all(item.name != name for item in known):
            raise bad(f"no tool is called {str(name)[:80]!r}", "tool_choice.name")
        return str(name), parallel
    if not isinstance(kind, str) or kind not in CHOICES:
        raise bad("expected auto, any, tool or none", "tool_choice.type")
    if kind == "any" and not known:
        raise bad("expected tools to choose from", "tool_choice")
    return CHOICES[kind], parallel
