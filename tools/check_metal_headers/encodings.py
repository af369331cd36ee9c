"""Objective-C type encodings, as compilers write them into binaries."""

from __future__ import annotations

import re

from .model import Types

QUALIFIERS = "rnNoORV"  # const, in, inout, out, bycopy, byref, oneway


def split(text: str) -> list[str]:
    """The types of an encoding such as `v32@0:8@16Q24`, offsets and qualifiers left out."""
    types = []
    position = 0
    while position < len(text):
        if text[position].isdigit():
            position += 1
            continue
        end = _end(text, position)
        types.append(simplify(text[position:end]))
        position = end
    return types


def method(text: str) -> Types:
    """Of a method: result, self, selector, arguments."""
    result, _self, _selector, *arguments = split(text)
    return Types(result, tuple(arguments))


def simplify(text: str) -> str:
    """One spelling for one type: `{MTLSize=QQQ}` is `{MTLSize}`, `@"NSString"` is `@`."""
    text = text.lstrip(QUALIFIERS)
    text = re.sub(r'^@"[^"]*"$', "@", text)
    if text.startswith("@?<"):
        return "@?<" + "".join(split(text[3:-1])) + ">"
    return re.sub(r"^\{_?(\w+)=.*\}$", r"{\1}", text)


def _end(text: str, position: int) -> int:
    """Where the type that starts at `position` ends."""
    while text[position] in QUALIFIERS + "^":
        position += 1
    if text[position] in "{(":
        return _closing(text, position, "{(", "})")
    if text.startswith('@"', position):
        return text.index('"', position + 2) + 1
    if text.startswith("@?<", position):
        return _closing(text, position + 2, "<", ">")
    return position + (2 if text.startswith("@?", position) else 1)


def _closing(text: str, position: int, opening: str, closing: str) -> int:
    depth = 0
    while True:
        depth += (text[position] in opening) - (text[position] in closing)
        position += 1
        if depth == 0:
            return position
