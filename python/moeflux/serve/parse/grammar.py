"""Grammars (llguidance's Lark) of answers that must be calls, or content of a certain form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from ..dialogue import Dialogue, OutputRule, ToolSpec
from ..http.errors import bad
from .literal_rules import LiteralWriter, check_length, definitions, json_rule, value_rule
from .markup import TAG, JsonForm, LiteralForm, Markup

HEAD = "%llguidance {}\n"
TokenOf = Callable[[str], int | None]


def rule_of(
    dialogue: Dialogue, markup: Markup, opened: bool, token_of: TokenOf
) -> OutputRule | None:
    """What an answer is held to: the call that is asked for, the form of its content, or nothing.

    Args:
        dialogue: the request.
        markup: of the model.
        opened: the prompt ends within reasoning.
        token_of: the id of a tag that is one token, which a grammar writes otherwise.
    """
    tools = dialogue.tools
    if dialogue.choice not in ("auto", "none", "required"):
        tools = tuple(tool for tool in tools if tool.name == dialogue.choice)
    write = _Writer(markup, token_of)
    if tools and markup.form and dialogue.choice not in ("auto", "none"):
        many = dialogue.parallel and dialogue.choice == "required"
        start = f"start: {write.thinking(opened)} {write.some_calls(many)}\n"
        return OutputRule("lark", HEAD + start + write.calls(tools))
    free = tools if dialogue.choice == "auto" and markup.form else ()
    if dialogue.output is not None:
        return write.output(dialogue.output, opened, free)
    if any(tool.strict for tool in free) and write.begins_with_token:
        calls = f"(TEXT? {write.some_calls(True)})* TEXT?"
        start = f"start: {write.thinking(opened)} {calls}\nTEXT: /(.|\\n)+/\n"
        return OutputRule("lark", HEAD + start + write.calls(free))
    return None


class _Writer:
    """Writes rules with the tags of a markup."""

    def __init__(self, markup: Markup, token_of: TokenOf) -> None:
        self._markup, self._token_of = markup, token_of

    def tag(self, text: str) -> str:
        """A text with tags; those that are one token are written as such."""
        parts = [part for part in re.split(f"({TAG.pattern})", text) if part]
        return " ".join(map(self._part, parts))

    def _part(self, text: str) -> str:
        token = self._token_of(text) if TAG.fullmatch(text) else None
        return json.dumps(text) if token is None else f"<[{token}]>"

    def named(self, text: str, name: str) -> str:
        """The same, with a name in its place; a name is no tag, whatever it spells."""
        before, behind = text.split("{name}")
        index = " /[0-9]+/ ".join(map(self.tag, behind.split("{index}")))
        return f"{self.tag(before)} {json.dumps(name)} {index}"

    def until(self, rule: str, end: str) -> str:
        """A rule of any text up to its end."""
        tag = TAG.match(end)
        if tag and self._token_of(tag[0]) is not None:
            return (
                f"{rule}: {rule.upper()}_TEXT? {self.tag(end)}\n{rule.upper()}_TEXT: /(.|\\n)+/\n"
            )
        return f"{rule}[suffix={json.dumps(end)}]: /(.|\\n)*/\n"

    @property
    def begins_with_token(self) -> bool:
        """Whether the first tag of calls is one token, which no text is taken for."""
        begin = (self._markup.section or self._markup.call)[0]
        return self._token_of(begin) is not None or bool(self._markup.lead[1])

    def some_calls(self, many: bool) -> str:
        """One call or several, in their section."""
        joins, form = self.tag(self._markup.joins), self._markup.form
        if isinstance(form, (LiteralForm, JsonForm)) and form.more:
            comma = form.comma if isinstance(form, LiteralForm) else f"{form.more} "
            return self._in_tags(f"one ({self.tag(comma)} one)*" if many else "one")
        calls = f"call ({joins} call)*" if many else "call"
        if self._markup.section is None:
            return calls
        begin, end = map(self.tag, self._markup.section)
        return f"{begin} {joins} {calls} {joins} {end}"

    def thinking(self, opened: bool) -> str:
        """The name of a rule of reasoning that may come first."""
        if self._markup.think is None:
            return "nothing"
        return "think_rest WS?" if opened else "(think WS?)?"

    def _thinking_rules(self) -> str:
        if self._markup.think is None:
            return 'nothing: ""\n'
        begin, end = self._markup.think
        rest = self.until("think_rest", end)
        return f"think: {self.tag(begin)} think_rest\n{rest}WS: /[ \\n]+/\n"

    def calls(self, tools: Iterable[ToolSpec]) -> str:
        """The rule `call`: one call of any of the tools."""
        form = self._markup.form
        write = self._json_call
        if isinstance(form, LiteralForm):
            write = LiteralWriter(form, self.tag, self.until).call
        elif not isinstance(form, JsonForm):
            write = self._pair_call
        tools = list(tools)
        may, does = map(self.tag, self._markup.lead)
        lead = f"({may})? {does}" if does else ""
        names = " | ".join(f"call_{i}" for i in range(len(tools)))
        rules = ""
        for i, tool in enumerate(tools):
            rules += write(form, f"call_{i}", tool)
            check_length(rules)
        return f"call: {lead} {self._in_tags('one')}\none: {names}\n{rules}{self._thinking_rules()}"

    def _in_tags(self, calls: str) -> str:
        form = self._markup.form
        around = form.around if isinstance(form, (LiteralForm, JsonForm)) else ("", "")
        (begin, end), (opening, closing) = (map(self.tag, of) for of in (self._markup.call, around))
        return f"{begin} {opening} {calls} {closing} {end}"

    def _json_call(self, form: Any, rule: str, tool: ToolSpec) -> str:
        head, tail = self.named(form.written, tool.name), self.tag(form.tail)
        return f"{rule}: {head} {rule}_arguments {tail}\n" + json_rule(
            f"{rule}_arguments", tool.parameters, tool.strict
        )

    def _pair_call(self, form: Any, rule: str, tool: ToolSpec) -> str:
        """Parameters in the schema's order; those that are not required may be missing."""
        given = tool.parameters.get("properties")
        properties: dict[str, Any] = given if isinstance(given, dict) else {}
        needed = tool.parameters.get("required")
        required = needed if isinstance(needed, list) else []
        shared = definitions(tool.parameters)
        call_head, parameter, end, tail = form.written
        close = self.tag(end)
        parts, rules = [], ""
        for i, (name, schema) in enumerate(properties.items()):
            part = f"{rule}_p{i}"
            parts.append(part if name in required else f"{part}?")
            head = self.named(parameter, name)
            kind = schema.get("type") if isinstance(schema, dict) else None
            listed = schema.get("enum", []) if kind == "string" else []
            if not isinstance(listed, list):
                raise bad(f"expected a list as the enum of {name[:80]!r} of {tool.name}", "tools")
            if kind == "string" and "enum" not in schema:
                rules += f"{part}: {head} {part}_v\n"
                rules += self.until(f"{part}_v", end)
            elif kind == "string":
                values = " | ".join(json.dumps(str(value)) for value in listed)
                rules += f"{part}: {head} ({values}) {close}\n"
            else:
                rules += f"{part}: {head} {part}_v {close}\n"
                rules += value_rule(f"{part}_v", schema, shared, tool.strict)
            check_length(rules)
        head = self.named(call_head, tool.name)
        return f"{rule}: {head} {' '.join(parts)} {self.tag(tail)}\n{rules}"

    def output(self, output: OutputRule, opened: bool, tools: tuple[ToolSpec, ...]) -> OutputRule:
        """The same rule; reasoning may come first, and calls of tools may come in its place."""
        plain = self._markup.think is None and not tools
        if plain or output.kind not in ("json", "json_schema"):
            return output
        schema = json.loads(output.source) if output.source else {"type": "object"}
        calls = ' | call ("\\n" call)*' if tools else ""
        start = f"start: {self.thinking(opened)} (body{calls})\n"
        rules = self.calls(tools) if tools else self._thinking_rules()
        return OutputRule("lark", HEAD + start + rules + json_rule("body", schema, output.strict))
