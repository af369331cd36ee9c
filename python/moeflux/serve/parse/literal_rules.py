"""Rules of grammars (llguidance's Lark) for values: as JSON, and in the notation of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..constrain import JSON_OPTIONS, MAX_SOURCE
from ..dialogue import ToolSpec
from ..http.errors import bad
from .markup import LiteralForm

_SAY_NOTHING = frozenset(("type", "description", "title", "default", "examples"))


def json_rule(rule: str, schema: Any, strict: bool) -> str:
    """A rule of JSON that a schema describes."""
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": JSON_OPTIONS | {"lenient": not strict}}
    return f"{rule}: %json {json.dumps(schema)}\n"


def definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema's references point into."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def value_rule(rule: str, schema: Any, shared: dict[str, Any], strict: bool) -> str:
    """As `json_rule`, of a part of a schema with those `definitions`, where it refers to them."""
    refers = shared and isinstance(schema, dict) and '"$ref"' in json.dumps(schema)
    return json_rule(rule, {**schema, **shared} if refers else schema, strict)


def check_length(rules: str) -> None:
    """Refuses to write on where no grammar may be as long: definitions are written repeatedly."""
    if len(rules) > MAX_SOURCE:
        raise bad(f"expected tools whose grammar has at most {MAX_SOURCE} characters", "tools")


class LiteralWriter:
    """Writes rules of calls with literals.

    Texts are in the quotes that the model was taught, and so are those in lists and objects. What a
    schema says beyond types, names and choices is held as JSON, which the parser reads, too.

    Args:
        form: of the calls.
        tag: writes a text with tags.
        until: writes a rule of any text up to its end.
    """

    def __init__(
        self, form: LiteralForm, tag: Callable[[str], str], until: Callable[[str, str], str]
    ) -> None:
        self._form, self._tag, self._until = form, tag, until
        self._own_quote = form.quotes[0] != '"'  # which JSON has

    def call(self, form: Any, rule: str, tool: ToolSpec) -> str:
        """The rule of a tool's call, and those that it needs."""
        before, behind = form.written.split("{name}")
        head = f"{self._tag(before)} {json.dumps(tool.name)} {self._tag(behind)}"
        shared = definitions(tool.parameters)
        members, rules = self._members(rule, tool.parameters, form.sign, shared, tool.strict)
        return f"{rule}: {head} {members} {json.dumps(form.close)}\n{rules}"

    def _members(
        self, rule: str, schema: Any, sign: str, shared: dict[str, Any], strict: bool
    ) -> tuple[str, str]:
        """Named values in the schema's order; those that are not required may be missing."""
        given, needed = schema.get("properties"), schema.get("required")
        properties: dict[str, Any] = given if isinstance(given, dict) else {}
        required = needed if isinstance(needed, list) else []
        rules = ""
        parts = []
        for i, (name, value) in enumerate(properties.items()):
            key = name if re.fullmatch(r"\w+", name) else json.dumps(name, ensure_ascii=False)
            parts.append((f"{rule}_p{i}", name in required))
            rules += f"{rule}_p{i}: {json.dumps(key + sign)} {rule}_p{i}_v\n"
            rules += self._value(f"{rule}_p{i}_v", value, shared, strict)
            check_length(rules)
        return f"{rule}_m", rules + _listed(f"{rule}_m", parts, json.dumps(self._form.comma))

    def _value(self, rule: str, schema: Any, shared: dict[str, Any], strict: bool) -> str:
        kind = schema.get("type") if isinstance(schema, dict) and self._own_quote else None
        said = frozenset(schema) - _SAY_NOTHING if kind else frozenset()
        quote = self._tag(self._form.quotes[0])
        if kind == "string" and not said:
            return f"{rule}: {quote} {rule}_t\n{self._until(f'{rule}_t', self._form.quotes[0])}"
        if kind == "string" and said == {"enum"} and _are_texts(schema["enum"]):
            values = " | ".join(json.dumps(value) for value in schema["enum"])
            return f"{rule}: {quote} ({values}) {quote}\n"
        if kind == "array" and said == {"items"}:
            items = f"{rule}_i ({json.dumps(self._form.comma)} {rule}_i)*"
            return f'{rule}: "[" ({items})? "]"\n' + self._value(
                f"{rule}_i", schema["items"], shared, strict
            )
        if kind == "object" and {"properties"} <= said <= _OBJECT and _has_names(schema):
            members, rules = self._members(rule, schema, ":", shared, strict)
            return f'{rule}: "{{" {members} "}}"\n{rules}'
        return value_rule(rule, schema, shared, strict)


_OBJECT = frozenset(("properties", "required", "additionalProperties"))


def _has_names(schema: dict[str, Any]) -> bool:
    """Whether an object has the members that the schema names, and no others need be thought of."""
    others = schema.get("additionalProperties", False)
    return isinstance(schema["properties"], dict) and others is False


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, str) for v in values)


def _listed(rule: str, parts: Sequence[tuple[str, bool]], comma: str) -> str:
    """The rule of parts with commas between those that are there; each may be needed."""
    firsts, may_be_empty = [], True
    rules = ""
    for i, (part, is_needed) in enumerate(parts):
        optional = "" if is_needed else "?"
        rules += f"{rule}{i}: ({comma} {part}){optional} {rule}{i + 1}\n"
        if may_be_empty:
            firsts.append(f"{part} {rule}{i + 1}")
        may_be_empty &= not is_needed
    alternatives = " | ".join([*firsts, *(['""'] if may_be_empty else [])])
    return f'{rule}: {alternatives}\n{rules}{rule}{len(parts)}: ""\n'
