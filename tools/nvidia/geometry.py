"""A dispatch by its kernel's `@` lines (tools/README.md): geometry, and whether it is legal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from msl.expressions import Node, parse
from msl.model import SCALARS, Kernel

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "/": int.__floordiv__,
    "%": int.__mod__,
    "==": int.__eq__,
    "!=": int.__ne__,
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
    "ceil_div": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
}


class GeometryError(Exception):
    """A dispatch that the kernel's annotations refuse."""


class Unknown(Exception):
    """The value needs the contents of a buffer that are not known."""


def geometry(
    kernel: Kernel,
    args: Sequence[Any],
    nbytes: Sequence[int],
    grid: int | None,
    threads: int | None,
    constants: Mapping[str, int],
) -> tuple[int, int]:
    """Grid and threads, the kernel's defaults where None. Raises GeometryError.

    `args` in binding order; `nbytes` of each that is a buffer.
    """
    names: dict[str, int] = {c.name: constants.get(c.name, c.default) for c in kernel.constants}
    buffers: dict[str, tuple[Any, int]] = {}
    for p, arg, size in zip(kernel.bindings, args, nbytes, strict=True):
        if p.scalar:
            names[p.name] = int(arg)
        else:
            buffers[p.name] = arg, size // SCALARS[p.element][1]
    lines = dict.fromkeys(("default_threadgroup", "grid"), "0") | dict(_lines(kernel))
    threads = threads or _value(parse(lines["default_threadgroup"]), names, buffers)
    names["threads"] = threads
    grid = grid or _value(parse(lines["grid"]), names, buffers)
    names |= {"grid": grid, "groups": -(-grid // threads)}
    for tag, text in _lines(kernel):
        name, _, rest = text.partition(" ")
        try:
            if tag == "require" and not _value(parse(text), names, buffers):
                raise GeometryError(f"{kernel.name}: {text} does not hold")
            if tag == "elements":
                needed, given = _value(parse(rest), names, buffers), buffers[name][1]
                if given < needed:
                    what = f"expected {needed} elements or more, found {given}"
                    raise GeometryError(f"{kernel.name}: {name}: {what}")
        except Unknown:
            continue
    return grid, threads


def _lines(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """(tag, text) of each annotation; that of several buffers once for each."""
    for doc in kernel.docs:
        match = re.fullmatch(r"///\s*@(\w+) (.*)", doc.text.strip())
        if not match:
            continue
        several = re.match(r"(\w+)\[(\d+)\] (.*)", match[2])
        if match[1] == "elements" and several:
            for i in range(int(several[2])):
                yield match[1], f"{several[1]}{i} {several[3].replace('#', str(i))}"
        else:
            yield match[1], match[2]


def _value(node: Node, names: Mapping[str, int], buffers: Mapping[str, tuple[Any, int]]) -> int:
    def value(node: Node) -> int:
        children = node.children
        if node.kind == "integer":
            return int(node.value)
        if node.kind == "name":
            return names[node.value]
        if node.kind == "call" and node.value in ("len", "maxof"):
            arg, length = buffers[children[0].value]
            if node.value == "len":
                return length
            if not isinstance(arg, np.ndarray):
                raise Unknown(children[0].value)
            return int(arg.max())
        if node.kind == "?:":
            return value(children[1] if value(children[0]) else children[2])
        if node.kind == "&&":
            return value(children[0]) and value(children[1])
        if node.kind == "||":
            return value(children[0]) or value(children[1])
        if node.kind == "!":
            return not value(children[0])
        return _OPERATORS[node.value or node.kind](*map(value, children))

    return value(node)
