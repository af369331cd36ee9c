"""What an argument must be: rules as data, and one way to refuse what breaks one.

A message names the argument, what was expected and what was found:
"[load] context: expected an integer in 1..16777216, found 'x'". Rules are of single arguments;
what several of them must fulfil together is said where they meet.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import MoefluxError, SessionError

SHOWN_CHARS = 80  # of a value in a message


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words that follow "expected", and whether it is."""

    expected: str
    fits: Callable[[Any], bool]


def is_integer(value: Any) -> bool:
    """Whether it is an integer of Python or numpy; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a number of Python or numpy that a float can hold, NaN and infinity, too."""
    if is_integer(value):
        return abs(int(value)) < 2**1023
    return isinstance(value, float | np.floating)


def integer(low: int, high: int | None = None) -> Rule:
    """An integer from `low` on, up to and including `high`."""
    expected = f"an integer of {low} or more" if high is None else f"an integer in {low}..{high}"
    most = math.inf if high is None else high
    return Rule(expected, lambda value: is_integer(value) and low <= value <= most)


def number(expected: str, fits: Callable[[Any], bool]) -> Rule:
    """A number with a property, which NaN never has."""
    return Rule(
        f"a number {expected}", lambda value: is_number(value) and value == value and fits(value)
    )


def one_of(names: Sequence[str]) -> Rule:
    """One of a few words."""
    expected = f"{', '.join(names[:-1])} or {names[-1]}"
    return Rule(expected, lambda value: isinstance(value, str) and value in names)


def instance(expected: str, *classes: type) -> Rule:
    """An object of a class."""
    return Rule(expected, lambda value: isinstance(value, classes))


def optional(rule: Rule) -> Rule:
    """None, or what the rule says."""
    return Rule(f"None or {rule.expected}", lambda value: value is None or rule.fits(value))


def _is_path(value: Any) -> bool:
    """Whether the file system can be asked for it."""
    try:
        return b"\0" not in os.fsencode(value) and isinstance(os.fspath(value), str)
    except (TypeError, UnicodeError):
        return False


def _is_text(value: Any) -> bool:
    """Whether it is text that has a UTF-8 form: no halves of surrogate pairs."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeError:
        return False


FLAG = instance("True or False", bool, np.bool_)
TEXT = Rule("Unicode text", _is_text)
PATH = Rule("a path", _is_path)


def show(value: Any) -> str:
    """A value for a message: one line, however large the value is."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except Exception:  # a foreign __repr__, or an integer of more digits than Python prints
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = SHOWN_CHARS


def check(
    where: str,
    error: type[MoefluxError],
    rules: Mapping[str, Rule],
    values: Mapping[str, Any],
) -> None:
    """Raises `error` for the first value that breaks the rule of its name.

    Values without a rule are left alone, so `locals()` at the start of a function will do.
    """
    for name, rule in rules.items():
        if name in values and not rule.fits(values[name]):
            raise error(f"[{where}] {name}: expected {rule.expected}, found {show(values[name])}")


def listed(
    where: str, error: type[MoefluxError], name: str, expected: str, value: Any
) -> list[Any]:
    """The items of an iterable of the caller's, read once: no text's letters, no mapping's keys."""
    try:
        items = None if isinstance(value, str | bytes | Mapping) else iter(value)
    except TypeError:
        items = None
    if items is None:
        raise error(f"[{where}] {name}: expected {expected}, found {show(value)}")
    return list(items)


def token_ids(
    tokens: Iterable[int], name: str = "tokens", where: str = "session"
) -> NDArray[np.uint32]:
    """Token ids as the engine takes them. Raises SessionError for what is no list of ids."""
    given: Any = tokens
    what = "text or token ids" if name == "prompt" else "token ids"
    if not isinstance(tokens, np.ndarray):
        given = listed(where, SessionError, name, what, tokens)
    try:
        ids = np.asarray(given)
    except ValueError:  # lists of different lengths
        raise SessionError(f"[{where}] {name}: expected {what}, found {show(given)}") from None
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise SessionError(f"[{where}] {name}: expected {what}, found {ids.dtype} {ids.shape}")
    if ids.size == 1:  # of decode, many a step: reductions take longer than the rest
        least = most = int(ids[0])
    elif ids.size:
        least, most = int(ids.min()), int(ids.max())
    else:
        least = most = 0
    if least < 0 or most >= 2**32:
        raise SessionError(f"[{where}] {name}: expected {what}, found {least}..{most}")
    return ids.astype(np.uint32)
