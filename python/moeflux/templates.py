"""What a chat template is given: messages and options, checked, and a last message left open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from .arguments import FLAG, TEXT, Rule, check, listed, optional, show
from .errors import SessionError, TemplateError

MEDIA = ("image", "video", "audio", "file")  # in the types of parts that no model here reads
REASONING = ("reasoning_content", "thinking", "reasoning")  # as in _template_worker.py
NOT_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt")  # given by other names


class ChatOptions(TypedDict, total=False):
    """What a chat template is given beside the messages; names are those of transformers.

    Attributes:
        tools: JSON schemas of functions that the model may call.
        documents: dicts with title and text, for templates that know them.
        chat_template_kwargs: more variables of the template, such as {"enable_thinking": False}.
        add_generation_prompt: end with the head of an answer; None does unless the final message
            is continued.
        continue_final_message: end within the last message, which the model goes on with; a string
            names the field to go on with, such as "reasoning_content".
        special_as_text: special tokens that tools, documents and messages of others than the
            assistant spell are text.
    """

    tools: Sequence[Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None
    chat_template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool | None
    continue_final_message: bool | str
    special_as_text: bool


def _is_json(value: Any) -> bool:
    """Whether it has a JSON form of Unicode text."""
    try:
        return TEXT.fits(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return False


def _is_dicts(value: Any) -> bool:
    is_list = isinstance(value, list | tuple)
    return is_list and all(isinstance(item, dict) for item in value) and _is_json(value)


def _is_variables(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(key, str) and key not in NOT_VARIABLES for key in value)
        and _is_json(value)
    )


_DICTS = optional(Rule("a list of dicts of JSON values", _is_dicts))
RULES = {
    "tools": _DICTS,
    "documents": _DICTS,
    "chat_template_kwargs": optional(
        Rule(f"a dict of JSON values without {', '.join(NOT_VARIABLES)}", _is_variables)
    ),
    "add_generation_prompt": optional(FLAG),
    "continue_final_message": Rule(
        "True, False or the name of a field",
        lambda value: FLAG.fits(value) or (TEXT.fits(value) and value != ""),
    ),
    "special_as_text": FLAG,
}


def check_options(options: Mapping[str, Any], caller: str) -> None:
    """Refuses what `ChatOptions` does not have.

    Raises:
        TypeError: no option has this name.
        SessionError: an option is not what it must be.
    """
    for name in options:
        if name not in RULES:
            raise TypeError(f"{caller}() got an unexpected keyword argument '{name}'")
    check("tokenizer", SessionError, RULES, options)
    if options.get("add_generation_prompt") and options.get("continue_final_message"):
        raise SessionError("[tokenizer] expected either add_generation_prompt or "
                           "continue_final_message, found both")  # fmt: skip


def _is_message(value: Any) -> bool:
    return _is_dicts([value]) and TEXT.fits(value.get("role"))


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages as a list. Raises SessionError for what a template cannot be given."""
    what = "a list of dicts with role and content"
    found = listed("tokenizer", SessionError, "messages", what, messages)
    if not (_is_dicts(found) and all(TEXT.fits(message.get("role")) for message in found)):
        first = next((message for message in found if not _is_message(message)), found)
        raise SessionError(f"[tokenizer] messages: expected {what}, found {show(first)}")
    for message in found:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = str(part.get("type")) if isinstance(part, dict) else ""
            if any(word in kind for word in MEDIA):
                raise SessionError(f"[tokenizer] messages: expected parts of text, found "
                                   f"{show(kind)}")  # fmt: skip
    return found


def marks(template: str, given: Any) -> tuple[str, str]:
    """Two characters that are neither in a template nor in what it is given.

    They are of the 32 of Unicode's first noncharacters, which texts have no use for.

    Raises:
        SessionError: the texts have used them up.
    """
    text = template + json.dumps(given, ensure_ascii=False)
    free = [mark for mark in map(chr, range(0xFDD0, 0xFDF0)) if mark not in text]
    if len(free) < 2:
        raise SessionError("[tokenizer] messages: expected Unicode text, found noncharacters")
    return free[0], free[1]


def open_end(message: dict[str, Any], field: bool | str, mark: str) -> tuple[dict[str, Any], str]:
    """A message whose text ends in a mark and a space, and that text without them.

    Args:
        message: the last one.
        field: of `continue_final_message`: what to go on with; True is its content.
        mark: that no text has.

    Raises:
        SessionError: there is no text to go on with.
    """
    key = field if isinstance(field, str) else "content"
    names = REASONING if key in REASONING else (key,)  # a template may read any of them
    given = (message[name] for name in (key, *names) if message.get(name) is not None)
    end, text = mark + " ", next(given, None)
    if isinstance(text, str):
        fields = [name for name in names if message.get(name) in (None, text)]
        return {**message, **dict.fromkeys(fields, text + end)}, text
    parts = list(text) if isinstance(text, list) else []
    for at in reversed(range(len(parts))):
        if isinstance(parts[at], dict) and isinstance(text := parts[at].get("text"), str):
            parts[at] = {**parts[at], "text": text + end}
            return {**message, key: parts}, text
    raise SessionError(f"[tokenizer] continue_final_message: expected a last message with a text "
                       f"of {key}, found {show(message)}")  # fmt: skip


def cut_open_end(rendered: str, text: str, mark: str) -> str:
    """A rendered chat up to the end of the text that `open_end` returned.

    Raises:
        TemplateError: the template left the text out, or changed it.
    """
    before, found, after = rendered.rpartition(mark)
    if not found or text.strip() not in before:
        raise TemplateError("[tokenizer] continue_final_message: the chat template does not write "
                            "the last message as it is")  # fmt: skip
    return before if after.startswith(" ") else before.rstrip()  # the template trims texts
