"""OpenAI's messages and tools, read by hand: an error names the very part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..dialogue import (
    Call,
    OutputRule,
    ToolSpec,
    Turn,
    arguments,
    check_schema,
    checked_tools,
    tool,
)
from ..http.errors import bad
from .schema.fields import Ruled

ROLES = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
CHOICES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


def text_of(content: Any, where: str) -> str:
    """The text of a content: a string, null, or parts of text.

    Raises:
        ApiError: a part is something else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad("expected text or a list of parts", where)
    texts = []
    for i, part in enumerate(content):
        at = f"{where}[{i}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise bad("expected a part, an object", at)
        kind = part.get("type", "text")
        if kind not in TEXT_PARTS:
            raise bad(
                f"parts of type {str(kind)[:40]!r} are not read here, only text", f"{at}.type"
            )
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise bad("expected text", f"{at}.text")
        texts.append(text)
    return "".join(texts)


def turns(messages: list[dict[str, Any]]) -> list[Turn]:
    """The messages of a chat. Raises ApiError that names the one that is wrong."""
    found: list[Turn] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise bad(f"expected one of {', '.join(ROLES)}, found {str(role)[:40]!r}",
                      f"{where}.role")  # fmt: skip
        text = text_of(message.get("content"), f"{where}.content")
        turn = Turn(ROLES[role], text, where=where)
        if turn.role == "assistant":
            turn = _assistant(message, turn)
        elif turn.role == "tool":
            call_id = message.get("tool_call_id", message.get("name"))
            if not isinstance(call_id, str):
                raise bad("expected the id of a call", f"{where}.tool_call_id")
            turn = Turn("tool", text, call_id=call_id, where=where)
        elif "content" not in message:
            raise bad("expected a content", f"{where}.content")
        found.append(turn)
    return found


def _assistant(message: Mapping[str, Any], turn: Turn) -> Turn:
    reasoning = None
    for name in ("reasoning", "reasoning_content"):  # the latter where a client sends both
        if (given := message.get(name)) is not None:
            if not isinstance(given, str):
                raise bad("expected text", f"{turn.where}.{name}")
            reasoning = given
    given = message.get("tool_calls")
    if given is not None and not isinstance(given, list):
        raise bad("expected a list of calls", f"{turn.where}.tool_calls")
    calls = []
    for i, call in enumerate(given or []):
        where = f"{turn.where}.tool_calls[{i}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise bad("expected a call of a function", where)
        calls.append(
            call_of(call.get("id"), function.get("name"), function.get("arguments"), where)
        )
    if not (calls or turn.text or reasoning or "content" in message):
        raise bad("expected a content or calls", f"{turn.where}.content")
    return Turn("assistant", turn.text, reasoning, tuple(calls), where=turn.where)


def call_of(call_id: Any, name: Any, given: Any, where: str) -> Call:
    """A checked call of an earlier answer."""
    if not isinstance(call_id, str) or not isinstance(name, str):
        raise bad("expected an id and a name", where)
    return Call(call_id, name, arguments({} if given is None else given, f"{where}.arguments"))


def tools(given: list[dict[str, Any]] | None) -> tuple[ToolSpec, ...]:
    """The functions of a chat's tools."""
    found = []
    for i, item in enumerate(given or []):
        where = f"tools[{i}]"
        kind, function = item.get("type", "function"), item.get("function")
        if kind != "function":
            raise bad(f"tools of type {str(kind)[:40]!r} are not done, only functions",
                      f"{where}.type")  # fmt: skip
        if not isinstance(function, dict):
            raise bad("expected a function, an object", f"{where}.function")
        found.append(tool(
            function.get("name"), function.get("description"), function.get("parameters"),
            function.get("strict"), f"{where}.function",
        ))  # fmt: skip
    return checked_tools(found, "tools")


def tool_choice(
    given: Any, known: tuple[ToolSpec, ...], where: str = "tool_choice"
) -> tuple[str, tuple[ToolSpec, ...]]:
    """(choice as a Dialogue has it, the tools that are left). Both of OpenAI's forms are read."""
    if given is None or isinstance(given, str):
        choice = CHOICES.get(given or "auto", "")
        if not choice:
            raise bad(f"expected one of {', '.join(CHOICES)} or a tool", where)
    elif isinstance(given, dict) and given.get("type") == "allowed_tools":
        inner = given.get("allowed_tools", given)
        mode, listed = (inner.get("mode", "auto"), inner.get("tools")) if isinstance(
            inner, dict) else (None, None)  # fmt: skip
        if mode not in ("auto", "required") or not isinstance(listed, list):
            raise bad("expected a mode, auto or required, and a list of tools", where)
        names = {_name_of(item, where) for item in listed}
        choice, known = mode, tuple(item for item in known if item.name in names)
    else:
        choice = _name_of(given, where)
        if all(item.name != choice for item in known):
            raise bad(f"no tool is called {choice[:80]!r}", where)
    if choice not in ("auto", "none") and not known:
        raise bad("expected tools to choose from", where)
    return choice, known


def _name_of(given: Any, where: str) -> str:
    inner = given.get("function", given) if isinstance(given, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise bad("expected the name of a tool", where)
    return name


def output_of(given: Mapping[str, Any] | None, where: str) -> OutputRule | None:
    """What `response_format` and `text.format` ask for."""
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return OutputRule("json")
    if kind != "json_schema":
        raise bad(f"expected text, json_object or json_schema, found {str(kind)[:40]!r}",
                  f"{where}.type")  # fmt: skip
    inner = given.get("json_schema", given)
    if not isinstance(inner, dict):
        raise bad("expected an object", f"{where}.json_schema")
    schema = inner.get("schema")
    check_schema(schema, f"{where}.schema")
    return OutputRule("json_schema", json.dumps(schema), inner.get("strict") is not False)


def one_rule(body: Ruled) -> OutputRule | None:
    """The one rule of the content, in whichever of its names it comes."""
    vllm = body.structured_outputs or {}
    schemas = {"json_schema": body.json_schema, "guided_json": body.guided_json,
               "structured_outputs.json": vllm.get("json")}  # fmt: skip
    found = [output_of(body.response_format, "response_format")]
    for where, schema in schemas.items():
        if schema is not None:
            found.append(_schema_rule(schema, where))
    texts = {
        "grammar": ("gbnf", body.grammar),
        "guided_grammar": ("lark", body.guided_grammar),
        "guided_regex": ("regex", body.guided_regex),
        "structured_outputs.grammar": ("lark", vllm.get("grammar")),
        "structured_outputs.regex": ("regex", vllm.get("regex")),
    }
    for where, (kind, source) in texts.items():
        if source is not None and not isinstance(source, str):
            raise bad("expected text", where)
        if source:
            found.append(OutputRule(kind, source))
    choices = body.guided_choice or vllm.get("choice")
    if choices:
        found.append(_choice_rule(choices))
    rules = [rule for rule in found if rule is not None]
    if len(rules) > 1:
        raise bad("expected one rule of the output, found several", "response_format")
    return rules[0] if rules else None


def _schema_rule(schema: Any, where: str) -> OutputRule:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise bad("expected a JSON schema", where) from None
    check_schema(schema, where)
    return OutputRule("json_schema", json.dumps(schema))


def _choice_rule(choices: Any) -> OutputRule:
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise bad("expected texts", "structured_outputs.choice")
    return OutputRule("lark", "start: " + " | ".join(json.dumps(choice) for choice in choices))
