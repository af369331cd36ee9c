"""Values that a JSON schema describes, for Hypothesis: the keywords of our OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

KNOWN = {"type", "anyOf", "$ref", "items", "properties", "required", "additionalProperties",
         "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "maxItems",
         "maxProperties", "default", "title", "description"}  # fmt: skip
MOST = 4  # items, and characters: enough to be several


def described(schema: Mapping[str, Any], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What fits a schema; `leaves` are the values where it says nothing.

    Raises:
        AssertionError: the schema has a keyword that is not read here.
    """
    assert not (more := schema.keys() - KNOWN), f"keywords that no value here is made by: {more}"
    if "anyOf" in schema:
        common = {key: schema[key] for key in ("maxItems", "maxLength") if key in schema}
        return st.one_of([described({**common, **one}, leaves) for one in schema["anyOf"]])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return _record(schema, leaves)
    return {
        None: lambda: leaves,
        "null": st.none,
        "boolean": st.booleans,
        "string": lambda: _texts(schema),
        "integer": lambda: _integers(schema),
        "number": lambda: _numbers(schema),
        "array": lambda: st.lists(described(schema.get("items") or {}, leaves), max_size=MOST),
        "object": lambda: st.dictionaries(_texts({}), _values(schema, leaves), max_size=MOST),
    }[kind]()


def _record(schema: Mapping[str, Any], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    made = {name: described(one, leaves) for name, one in schema["properties"].items()}
    required = set(schema.get("required", ()))
    optional = sorted(made.keys() - required)
    return st.sets(st.sampled_from(optional), max_size=MOST).flatmap(
        lambda names: st.fixed_dictionaries({name: made[name] for name in sorted(required | names)})
    )


def _values(schema: Mapping[str, Any], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    inner = schema.get("additionalProperties")
    return described(inner, leaves) if isinstance(inner, dict) else leaves


def _texts(schema: Mapping[str, Any]) -> st.SearchStrategy[str]:
    letters = st.characters(exclude_categories=["Cs"])
    return st.text(letters, min_size=schema.get("minLength", 0), max_size=MOST)


def _integers(schema: Mapping[str, Any]) -> st.SearchStrategy[int]:
    least, most = schema.get("minimum"), schema.get("maximum")
    edges = [edge for edge in (least, most) if edge is not None]
    inside = st.integers(least, most)
    small = st.integers(max(least or 0, 0), min(most or 64, 64))
    return st.one_of([small, inside, *map(st.just, edges)])


def _numbers(schema: Mapping[str, Any]) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    return st.floats(
        least, schema.get("maximum"), exclude_min="exclusiveMinimum" in schema, allow_nan=False,
        allow_infinity=False,
    )  # fmt: skip
