"""What a conversion is asked for: bits and groups of matrices, by name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..arguments import is_integer, listed, show
from ..errors import FormatError
from ..formats import BITS, GROUPS

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
PLAIN = "plain"


@dataclass(frozen=True)
class Codes:
    """Bits of a code, and columns that a scale and a bias cover."""

    bits: int
    group: int


@dataclass(frozen=True)
class Rule:
    """For the matrices whose names fit a pattern: codes, or None for plain numbers."""

    text: str
    pattern: str
    codes: Codes | None

    def fits(self, name: str) -> bool:
        """Whether a matrix of this name is meant: the whole name, or its end from a dot on."""
        return fnmatch.fnmatchcase(name, self.pattern) or fnmatch.fnmatchcase(
            name, f"*.{self.pattern}"
        )


@dataclass(frozen=True)
class Settings:
    """Of a conversion.

    Attributes:
        bits: of matrices; experts_bits: of those of experts, None for the same.
        group: columns that a scale covers.
        rules: texts PATTERN=BITS, PATTERN=BITS:GROUP or PATTERN=plain; the last that fits counts.
        dtype: of scales and biases, a key of `DTYPES`; None for that of the source.
    """

    bits: int = 4
    experts_bits: int | None = None
    group: int = 64
    rules: tuple[str, ...] = ()
    dtype: str | None = None
    parsed: tuple[Rule, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Raises FormatError for what is no setting."""
        _check_bits("bits", self.bits)
        if self.experts_bits is not None:
            _check_bits("experts-bits", self.experts_bits)
        _check("group-size", self.group, GROUPS)
        if self.dtype is not None:
            _check("dtype", self.dtype, tuple(DTYPES))
        for name in ("bits", "experts_bits", "group"):  # numpy's integers have no JSON
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else int(value))
        rules = tuple(listed("convert", FormatError, "rules", "texts", self.rules))
        object.__setattr__(self, "rules", rules)
        object.__setattr__(self, "parsed", tuple(map(self._rule, rules)))

    @property
    def usual(self) -> Codes:
        """Of matrices that nothing else is said of."""
        return Codes(self.bits, self.group)

    @property
    def of_experts(self) -> Codes:
        """Of experts that no rule is about."""
        return Codes(self.experts_bits or self.bits, self.group)

    def rule(self, name: str) -> Rule | None:
        """What is said of the matrix of a name: the last rule that fits."""
        return next((rule for rule in reversed(self.parsed) if rule.fits(name)), None)

    def require_use(self, names: Iterable[str]) -> None:
        """Refuses a rule that is about none of the matrices: a name was mistyped."""
        names = list(names)
        for rule in self.parsed:
            if not any(map(rule.fits, names)):
                raise FormatError(f"[convert] --rule: expected a pattern of names of matrices, as "
                                  f"{names[0]}, found {show(rule.text)}")  # fmt: skip

    def note(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"bits": self.bits, "experts_bits": self.experts_bits, "group_size": self.group,
                "rules": list(self.rules), "dtype": self.dtype}  # fmt: skip

    def _rule(self, text: Any) -> Rule:
        form = rf"(.+)=(?:({PLAIN})|(\d{{1,4}})(?::(\d{{1,4}}))?)"
        found = re.fullmatch(form, text) if isinstance(text, str) else None
        if not found:
            raise FormatError(f"[convert] --rule: expected PATTERN=BITS, PATTERN=BITS:GROUP or "
                              f"PATTERN={PLAIN}, found {show(text)}")  # fmt: skip
        if found[2]:
            return Rule(text, found[1], None)
        codes = Codes(int(found[3]), int(found[4] or self.group))
        _check_bits(f"rule {text}", codes.bits)
        _check(f"rule {text}", codes.group, GROUPS)
        return Rule(text, found[1], codes)


def _check_bits(name: str, value: Any) -> None:
    _check(name, value, BITS)


def _check(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if not (is_integer(value) or isinstance(value, str)) or value not in known:
        listed = f"{', '.join(map(str, known[:-1]))} or {known[-1]}"
        raise FormatError(f"[convert] --{name}: expected {listed}, found {show(value)}")
