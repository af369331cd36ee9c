"""Tokens of a flattened shader source, each with the file and line it came from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import MslError

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<doc>///[^\n]*)
  | (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<directive>\#(?:[^\n\\]|\\.|\\\n)*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<char>'(?:[^'\\\n]|\\.)*')
  | (?P<number>(?:\d|\.\d)(?:[eEpP][+-]|[\w.'])*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<op>::|->|\+\+|--|<<=|>>=|<<|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[-+*/%&|^!~<>=?:;,.(){}\[\]])
    """,
    re.X | re.S,
)
_LINE = re.compile(r'#line (\d+) "([^"]*)"')
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Token:
    """One token; `start` and `end` are offsets in the flattened text."""

    kind: str  # name, number, op, string, char, directive, doc
    text: str
    start: int
    file: str
    line: int

    @property
    def end(self) -> int:
        """Offset behind the token."""
        return self.start + len(self.text)

    def error(self, message: str) -> MslError:
        """An error at this token's place, to be raised."""
        return MslError(self.file, self.line, message)


def tokenize(text: str) -> list[Token]:
    """Splits `text`; white space and comments other than `///` are left out."""
    tokens, position, file, line = [], 0, "<source>", 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise MslError(file, line, f"cannot read {text[position : position + 20]!r}")
        kind, found = str(match.lastgroup), match.group()
        marker = _LINE.match(found) if kind == "directive" else None
        if marker:  # names the line after it, and the newline that ends it is still to come
            file, line = marker[2], int(marker[1]) - 1
        elif kind not in ("space", "comment"):
            tokens.append(Token(kind, found, position, file, line))
        line += found.count("\n")
        position = match.end()
    return tokens


def closing(tokens: list[Token], start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    opening, depth = tokens[start].text, 0
    close = _CLOSING[opening]
    for index in range(start, len(tokens)):
        if tokens[index].kind == "op":
            depth += (tokens[index].text == opening) - (tokens[index].text == close)
            if depth == 0:
                return index
    raise tokens[start].error(f"unclosed {opening}")


def split_commas(tokens: list[Token]) -> list[list[Token]]:
    """Splits at top-level commas; an empty list gives no parts."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind == "op":
            depth += token.text in "([{<"
            depth -= token.text in ")]}>"
            if token.text == "," and depth == 0:
                parts.append([])
                continue
        parts[-1].append(token)
    return parts if tokens else []
