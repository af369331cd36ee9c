"""Grammars (llguidance's Lark) of answers that must be calls, or content of a certain form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from ..constrain import JSON_OPTIONS
from ..dialogue import Dialogue, OutputRule, ToolSpec
from ..http.errors import bad
from .markup import Markup

HEAD = "%llguidance {}\n"
IsToken = Callable[[str], bool]


def rule_of(
    dialogue: Dialogue, markup: Markup, opened: bool, is_token: IsToken
) -> OutputRule | None:
    """What an answer is held to: the call that is asked for, the form of its content, or nothing.

    Args:
        dialogue: the request.
        markup: of the model.
        opened: the prompt ends within reasoning.
        is_token: whether a tag is one token of the vocabulary, which a grammar writes otherwise.
    """
    tools = dialogue.tools
    if dialogue.choice not in ("auto", "none", "required"):
        tools = tuple(tool for tool in tools if tool.name == dialogue.choice)
    write = _Writer(markup, is_token)
    if tools and markup.form and dialogue.choice not in ("auto", "none"):
        more = ' ("\\n" call)*' if dialogue.parallel and dialogue.choice == "required" else ""
        start = f"start: {write.thinking(opened)} call{more}\n"
        return OutputRule("lark", HEAD + start + write.calls(tools))
    free = tools if dialogue.choice == "auto" and markup.form else ()
    if dialogue.output is not None:
        return write.output(dialogue.output, opened, free)
    if any(tool.strict for tool in free) and is_token(markup.call[0]):
        start = f"start: {write.thinking(opened)} (TEXT? call)* TEXT?\nTEXT: /(.|\\n)+/\n"
        return OutputRule("lark", HEAD + start + write.calls(free))
    return None


class _Writer:
    """Writes rules with the tags of a markup."""

    def __init__(self, markup: Markup, is_token: IsToken) -> None:
        self._markup, self._is_token = markup, is_token

    def tag(self, text: str) -> str:
        return text if self._is_token(text) else json.dumps(text)

    def thinking(self, opened: bool) -> str:
        """The name of a rule of reasoning that may come first."""
        if self._markup.think is None:
            return "nothing"
        return "think_rest WS?" if opened else "(think WS?)?"

    def _thinking_rules(self) -> str:
        if self._markup.think is None:
            return 'nothing: ""\n'
        begin, end = self._markup.think
        rest = "think_rest[suffix=%s]: /(.|\\n)*/\n" % json.dumps(end)  # noqa: UP031
        if self._is_token(end):
            rest = f"think_rest: ANY? {end}\nANY: /(.|\\n)+/\n"
        return f"think: {self.tag(begin)} think_rest\n{rest}WS: /[ \\n]+/\n"

    def calls(self, tools: Iterable[ToolSpec]) -> str:
        """The rule `call`: one call of any of the tools."""
        form = {"json": self._json_call, "xml": self._xml_call}[self._markup.form]
        tools = list(tools)
        begin, end = map(self.tag, self._markup.call)
        names = " | ".join(f"call_{i}" for i in range(len(tools)))
        rules = "".join(form(f"call_{i}", tool) for i, tool in enumerate(tools))
        return f'call: {begin} "\\n" ({names}) "\\n" {end}\n{rules}{self._thinking_rules()}'

    def _json_call(self, rule: str, tool: ToolSpec) -> str:
        head = json.dumps(f'{{"name": "{tool.name}", "arguments": ')
        return f'{rule}: {head} {rule}_arguments "}}"\n' + _json(
            f"{rule}_arguments", tool.parameters, tool.strict
        )

    def _xml_call(self, rule: str, tool: ToolSpec) -> str:
        """Parameters in the schema's order; those that are not required may be missing."""
        given = tool.parameters.get("properties")
        properties: dict[str, Any] = given if isinstance(given, dict) else {}
        needed = tool.parameters.get("required")
        required = needed if isinstance(needed, list) else []
        definitions = {key: tool.parameters[key] for key in ("$defs", "definitions")
                       if key in tool.parameters}  # fmt: skip
        parts, rules = [], ""
        for i, (name, schema) in enumerate(properties.items()):
            part = f"{rule}_p{i}"
            parts.append(part if name in required else f"{part}?")
            head = json.dumps(f"<parameter={name}>\n")
            kind = schema.get("type") if isinstance(schema, dict) else None
            listed = schema.get("enum", []) if kind == "string" else []
            if not isinstance(listed, list):
                raise bad(f"expected a list as the enum of {name[:80]!r} of {tool.name}", "tools")
            if kind == "string" and "enum" not in schema:
                rules += f"{part}: {head} {part}_v\n"
                rules += f'{part}_v[suffix="\\n</parameter>\\n"]: /(.|\\n)*/\n'
            elif kind == "string":
                values = " | ".join(json.dumps(str(value)) for value in listed)
                rules += f'{part}: {head} ({values}) "\\n</parameter>\\n"\n'
            else:
                value = {**schema, **definitions} if isinstance(schema, dict) else schema
                rules += f'{part}: {head} {part}_v "\\n</parameter>\\n"\n' + _json(
                    f"{part}_v", value, tool.strict
                )
        head = json.dumps(f"<function={tool.name}>\n")
        return f'{rule}: {head} {" ".join(parts)} "</function>"\n{rules}'

    def output(self, output: OutputRule, opened: bool, tools: tuple[ToolSpec, ...]) -> OutputRule:
        """The same rule; reasoning may come first, and calls of tools may come in its place."""
        plain = self._markup.think is None and not tools
        if plain or output.kind not in ("json", "json_schema"):
            return output
        schema = json.loads(output.source) if output.source else {"type": "object"}
        calls = ' | call ("\\n" call)*' if tools else ""
        start = f"start: {self.thinking(opened)} (body{calls})\n"
        rules = self.calls(tools) if tools else self._thinking_rules()
        return OutputRule("lark", HEAD + start + rules + _json("body", schema, output.strict))


def _json(rule: str, schema: Any, strict: bool) -> str:
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": JSON_OPTIONS | {"lenient": not strict}}
    return f"{rule}: %json {json.dumps(schema)}\n"
