"""What Metal refuses and a host C++ compiler would not, and what this project does not write."""

from __future__ import annotations

import re

from .model import Library
from .parse import SYNCHRONISES
from .tokens import Token, split_commas

_FORBIDDEN = {
    "double": "Metal has no double",
    "bfloat": "needs Metal 3.1; use the bit pattern (bf16)",
    **dict.fromkeys(
        [
            "goto",
            "try",
            "catch",
            "throw",
            "new",
            "delete",
            "virtual",
            "dynamic_cast",
            "typeid",
            "thread_local",
            "register",
            "asm",
        ],
        "does not exist in Metal",
    ),
    "auto": "write the type: address spaces would be deduced",
}
_ADDRESS_SPACES = ("device", "constant", "threadgroup", "thread")
_MACRO = re.compile(
    r"#\s*define\b.*\b(kernel|device|constant|threadgroup|thread|\w+_barrier|simd_\w+)\b", re.S
)


def check(library: Library, directives: list[Token]) -> None:
    """Raises MslError at the first rule that is broken."""
    for directive in directives:
        match = _MACRO.match(directive.text)
        if match:
            raise directive.error(f"`{match[1]}` inside a macro is invisible to the front end")
    _check_words(library.tokens)
    _check_functions(library)
    _check_recursion(library)
    _check_constants(library)
    _check_types(library)


def _check_words(tokens: list[Token]) -> None:
    for index, token in enumerate(tokens):
        following = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if token.kind == "name" and token.text in _FORBIDDEN:
            raise token.error(f"`{token.text}`: {_FORBIDDEN[token.text]}")
        if token.text == "long" and following == "long":
            raise token.error("`long long` does not exist in Metal")
        before = tokens[index - 1].text if index else ""
        if token.text == "[" and before in ("=", "(", ",", "return", "{", ";") and following != "[":
            raise token.error("lambda (Metal refuses)")


def _check_functions(library: Library) -> None:
    for function in library.functions:
        start, end = function.body
        for token in library.tokens[start:end]:
            if token.text == "static":
                raise token.error("static local variable (Metal refuses)")
        if function.is_kernel:
            continue
        first, last = function.parameters
        for parameter in split_commas(library.tokens[first + 1 : last]):
            words = [t.text for t in parameter]
            if ("*" in words or "&" in words) and not any(s in words for s in _ADDRESS_SPACES):
                raise parameter[-1].error(
                    f"parameter {words[-1]}: pointer or reference without an address space "
                    "(Metal refuses)"
                )


def _check_recursion(library: Library) -> None:
    for function in library.functions:
        if function.name in library.calls.callees(function.name):
            raise library.tokens[function.first].error(
                f"{function.name} is recursive (Metal refuses)"
            )


def _check_constants(library: Library) -> None:
    """The host device sets function constants at a launch: too late for what depends on them."""
    names = {constant.name for constant in library.constants}
    inside = [range(f.first, f.body[1] + 1) for f in library.functions]
    for index, token in enumerate(library.tokens):
        declared = library.tokens[index + 1 : index + 2]
        if token.text not in names or any(index in f for f in inside):
            continue
        if declared and declared[0].text != "[":
            raise token.error("a program-scope constant depends on a function constant")


def _check_types(library: Library) -> None:
    """Calls of member functions are not followed, so those may not synchronise."""
    waiting = {
        name
        for name in library.calls.names
        if any(SYNCHRONISES.match(n) for n in library.calls.mentioned(name))
    }
    for first, last in library.types:
        for token in library.tokens[first:last]:
            if token.text in waiting or SYNCHRONISES.match(token.text):
                raise token.error(
                    f"{token.text} in a type: barriers and SIMD-group functions belong "
                    "in free functions"
                )
