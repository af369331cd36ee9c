"""What benchmarks/serve.py measures: of an engine, of its parts, and of a server's process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How long to measure.

    Attributes:
        rounds: turns of what is compared; medians are taken.
        tokens: of an answer.
        long: tokens of the long prompt that is cached.
    """

    rounds: int = 5
    tokens: int = 64
    long: int = 16_384


SHORT = Options(rounds=1, tokens=24, long=4096)


@dataclass(frozen=True)
class Row:
    """A number, and the bar that it is held against.

    Attributes:
        what: was measured.
        value: that was found.
        bar: to be reached; None: the number is told without one.
        least: whether the value must be the bar at least; else it may be that at most.
        unit: of both.
    """

    what: str
    value: float
    bar: float | None = None
    least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.least else self.value <= self.bar


def at_least(what: str, value: float, bar: float, unit: str = "") -> Row:
    """A number that must be so much."""
    return Row(what, value, bar, True, unit)


def at_most(what: str, value: float, bar: float, unit: str = "") -> Row:
    """A number that may be no more."""
    return Row(what, value, bar, False, unit)
