"""Markup of families, as data. A chat template shows which a model was taught."""

from __future__ import annotations

from dataclasses import dataclass

from ...thinking import TAGS

THINK = TAGS[0]


@dataclass(frozen=True)
class Markup:
    """How a model writes what is no plain content.

    Attributes:
        think: the tags around reasoning, or None.
        call: the tags around a call.
        form: of a call: "json" has {"name": ..., "arguments": {...}} between the tags, "xml"
            <function=NAME> and <parameter=NAME> elements; "" where the model knows no calls.
    """

    think: tuple[str, str] | None = None
    call: tuple[str, str] = ("<tool_call>", "</tool_call>")
    form: str = ""


def find_markup(template: str) -> Markup:
    """The markup that a chat template shows to the model.

    json is that of Hermes 2 and Qwen 2.5 to 3.5, xml that of Qwen3-Coder and Qwen3.6.
    """
    think = THINK if any(tag in template for tag in THINK) else None
    if "<tool_call>" not in template:
        return Markup(think)
    return Markup(think, form="xml" if "<function=" in template else "json")
