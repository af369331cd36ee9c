"""Threadgroup memory: every `threadgroup` declaration is placed, or refused."""

from __future__ import annotations

import re

from .expressions import ExpressionError, evaluate, parse
from .model import MAX_THREADGROUP_BYTES, OTHER_BYTES, SCALARS, Function, ThreadgroupArray
from .tokens import Token, split_commas

# The host device leaves this many bytes before, between and behind arrays, to see overruns.
RED_ZONE = 64


def declarations(tokens: list[Token], function: Function) -> list[tuple[int, int]]:
    """Token ranges (`threadgroup` .. `;`) of the variables that a kernel's body declares.

    `threadgroup` also qualifies pointers; whatever is neither is an error, since an array that is
    taken for a private one gives wrong results silently.
    """
    start, end = function.body
    found = []
    for index in range(start, end):
        if tokens[index].text != "threadgroup":
            continue
        stop, depth, pointer = index, 0, False
        while (
            tokens[stop].text not in (";", "=", "{") and depth >= 0
        ):  # `*` in [4 * 32] is no pointer
            depth += tokens[stop].text in ("(", "[")
            depth -= tokens[stop].text in (")", "]")
            pointer |= depth == 0 and tokens[stop].text in ("*", "&")
            stop += 1
        if pointer:
            continue
        if not function.is_kernel:
            raise tokens[index].error("threadgroup variable outside a kernel (Metal refuses)")
        if tokens[index - 1].text not in (";", "{", "}") or _depth(tokens, start, index) != 1:
            raise tokens[index].error(
                "write `threadgroup T name[N];` at the top level of the kernel"
            )
        if tokens[stop].text != ";":
            raise tokens[index].error(
                "threadgroup variable with an initialiser is not supported here"
            )
        found.append((index, stop))
    return found


def threadgroup_arrays(
    tokens: list[Token], function: Function, values: dict[str, int]
) -> list[ThreadgroupArray]:
    """The threadgroup arrays of a kernel, laid out; `values` are the known integer constants."""
    arrays: list[ThreadgroupArray] = []
    offset = RED_ZONE
    for start, end in declarations(tokens, function):
        kind = tokens[start + 1]
        nbytes_each = _type_bytes(kind)
        declared = (tokens[start].start, tokens[end].end)
        for name, *bounds in split_commas(tokens[start + 2 : end]):
            nbytes = nbytes_each
            for bound in _bounds(bounds):
                nbytes *= _evaluate(bound, values, name)
            dimensions = "".join(t.text for t in bounds)
            arrays.append(
                ThreadgroupArray(name.text, kind.text, dimensions, nbytes, offset, declared)
            )
            offset = (offset + nbytes + RED_ZONE + 15) // 16 * 16
    total = sum((a.nbytes + 15) // 16 * 16 for a in arrays)
    if total > MAX_THREADGROUP_BYTES:
        raise tokens[function.first].error(
            f"{total} bytes of threadgroup memory, Metal has {MAX_THREADGROUP_BYTES}"
        )
    return arrays


def _depth(tokens: list[Token], start: int, index: int) -> int:
    texts = [t.text for t in tokens[start:index]]
    return texts.count("{") - texts.count("}")


def _type_bytes(token: Token) -> int:
    match = re.fullmatch(r"(\w*?[a-z]|bf16)([234])?", token.text)
    bytes_of = {name: nbytes for name, (_, nbytes) in SCALARS.items()} | OTHER_BYTES
    if not match or match[1] not in bytes_of:
        raise token.error(f"threadgroup array of {token.text}: a type of unknown size")
    width = int(match[2] or 1)
    return bytes_of[match[1]] * (4 if width == 3 else width)


def _bounds(tokens: list[Token]) -> list[list[Token]]:
    """The contents of `[N][M]`."""
    bounds: list[list[Token]] = []
    depth = 0
    for token in tokens:
        depth -= token.text == "]"
        if depth > 0:
            bounds[-1].append(token)
        if token.text == "[" and depth == 0:
            bounds.append([])
        depth += token.text == "["
    return bounds


def _evaluate(bound: list[Token], values: dict[str, int], name: Token) -> int:
    text = " ".join(t.text for t in bound)
    try:
        value = evaluate(parse(text), values)
    except ExpressionError as error:
        raise name.error(f"threadgroup array {name.text}[{text}]: {error}") from None
    if value <= 0:
        raise name.error(f"threadgroup array {name.text} has no elements")
    return value
