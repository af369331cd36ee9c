"""Integer expressions of annotations and array bounds.

expr    := or [ "?" expr ":" expr ]
or, and, comparison, sum, product   as in C:  || && == != < <= > >= + - * / %
primary := INTEGER | NAME | NAME "(" expr { "," expr } ")" | "(" expr ")" | "!" primary
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(?:(0|[1-9]\d*)[uU]?\b|([A-Za-z_]\w*)|(\|\||&&|[=!<>]=|[-+*/%<>!?:(),]))")
_LEVELS = (
    ("||",),
    ("&&",),
    ("==", "!=", "<", "<=", ">", ">="),
    ("+", "-"),
    ("*", "/", "%"),
)


class ExpressionError(Exception):
    """The text is no expression, or names something that is not there."""


@dataclass(frozen=True)
class Node:
    """`kind` is "integer", "name", "call", "?:" or an operator; leaves carry `value`."""

    kind: str
    value: str = ""
    children: tuple[Node, ...] = ()


def parse(text: str) -> Node:
    """Parses the whole of `text`. Raises ExpressionError."""
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if not match:
            raise ExpressionError(f"cannot read {text[position:].strip()!r}")
        tokens.append(match.group().strip())
        position = match.end()
    reader = _Reader(tokens)
    node = reader.expression()
    if reader.peek():
        raise ExpressionError(f"expected the end, found {reader.peek()!r}")
    return node


class _Reader:
    def __init__(self, tokens: list[str]):
        self.tokens, self.index = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.index] if self.index < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise ExpressionError(f"expected {expected or 'a value'}, found {token or 'the end'!r}")
        self.index += 1
        return token

    def expression(self) -> Node:
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.take()
        chosen = self.expression()
        self.take(":")
        return Node("?:", children=(condition, chosen, self.expression()))

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.primary()
        node = self.binary(level + 1)
        while self.peek() in _LEVELS[level]:
            operator = self.take()
            node = Node(operator, children=(node, self.binary(level + 1)))
        return node

    def primary(self) -> Node:
        token = self.take()
        if token == "(":
            node = self.expression()
            self.take(")")
            return node
        if token == "!":
            return Node("!", children=(self.primary(),))
        if token[0].isdigit():
            return Node("integer", token.rstrip("uU"))
        if not (token[0].isalpha() or token[0] == "_"):
            raise ExpressionError(f"expected a value, found {token!r}")
        if self.peek() != "(":
            return Node("name", token)
        self.take("(")
        arguments = [self.expression()]
        while self.peek() == ",":
            self.take()
            arguments.append(self.expression())
        self.take(")")
        return Node("call", token, tuple(arguments))


# Functions of csrc/device/expression.h: every operation is defined for every operand.
_CPP = {
    "+": "add",
    "-": "subtract",
    "*": "multiply",
    "/": "divide",
    "%": "modulo",
    "==": "equal",
    "!=": "unequal",
    "<": "less",
    "<=": "at_most",
    ">": "greater",
    ">=": "at_least",
    "!": "negate",
}
_CALLS = {"ceil_div": "ceil_divide", "min": "smaller", "max": "larger"}


def to_cpp(node: Node, name: Callable[[str], str], buffer: Callable[[str, str], str]) -> str:
    """C++ of type `Wide`. `name` gives the C++ of a name, `buffer` that of len(x) and maxof(x)."""

    def cpp(node: Node) -> str:
        children = node.children
        if node.kind == "integer":
            return f"Wide{{{int(node.value)}}}"
        if node.kind == "name":
            return name(node.value)
        if node.kind == "call" and node.value in ("len", "maxof"):
            if len(children) != 1 or children[0].kind != "name":
                raise ExpressionError(f"{node.value} takes the name of a buffer")
            return buffer(node.value, children[0].value)
        if node.kind == "call":
            if node.value not in _CALLS or len(children) != 2:
                raise ExpressionError(f"no function {node.value} of {len(children)} arguments")
            return f"{_CALLS[node.value]}({cpp(children[0])}, {cpp(children[1])})"
        if node.kind in ("?:", "&&", "||"):  # evaluated as in C: only as far as needed
            first, second = cpp(children[0]), cpp(children[1])
            if node.kind == "?:":
                third = cpp(children[2])
                return f"choose({first}, [&] {{ return {second}; }}, [&] {{ return {third}; }})"
            return (
                f"{'both' if node.kind == '&&' else 'either'}({first}, [&] {{ return {second}; }})"
            )
        return f"{_CPP[node.kind]}({', '.join(cpp(c) for c in children)})"

    return cpp(node)


def evaluate(node: Node, values: Mapping[str, int]) -> int:
    """The value of a constant expression of + - * / %. Raises ExpressionError."""
    if node.kind == "integer":
        return int(node.value)
    if node.kind == "name" and node.value in values:
        return values[node.value]
    if node.kind not in ("+", "-", "*", "/", "%"):
        raise ExpressionError(f"{node.value or node.kind} is no known constant")
    left, right = (evaluate(c, values) for c in node.children)
    if node.kind in "/%" and right == 0:
        raise ExpressionError("division by zero")
    return {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left // right,
        "%": lambda: left % right,
    }[node.kind]()
