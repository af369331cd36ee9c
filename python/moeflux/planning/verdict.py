"""What a plan comes to, in a sentence: whether it is worth it, how fast, how to run it. Pure.

The words have bars in tokens/s: people read some five a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..memory import as_size


class Level(NamedTuple):
    """A word, the tokens/s from which it holds, and the exit status of `moeflux plan`."""

    word: str
    least: float
    status: int


# 1 and 2 are the statuses of errors.
LEVELS = (Level("GOOD", 5.0, 0), Level("SLOW", 1.0, 3), Level("POOR", 0.0, 4))
NO = Level("NO", 0.0, 5)  # it does not fit
ANSWER_TOKENS = 270  # some 200 words of English
ALMOST = 0.9  # of the best speed: what `tune` keeps


@dataclass(frozen=True)
class Verdict:
    """What a plan comes to.

    Attributes:
        word: of LEVELS, or NO.
        memory_bytes: the budget that is spoken of.
        minimum_bytes: the smallest that works.
        tokens_per_second: None where it does not fit.
        is_measured: by `bench` or `tune` on this machine, not predicted.
        tuned_bytes: the smallest budget near the best speed, where `tune` has found one.
        command: that runs it.
    """

    word: str
    memory_bytes: int
    minimum_bytes: int
    tokens_per_second: float | None
    is_measured: bool
    tuned_bytes: int | None
    command: str

    @property
    def status(self) -> int:
        """Exit status."""
        return next(level.status for level in (*LEVELS, NO) if level.word == self.word)

    @property
    def answer_seconds(self) -> float | None:
        """Of an answer of 200 words, once its first token is there."""
        rate = self.tokens_per_second
        return None if rate is None else ANSWER_TOKENS / rate

    @property
    def sentence(self) -> str:
        """For people."""
        least = as_size(self.minimum_bytes)
        if self.answer_seconds is None or self.tokens_per_second is None:
            return f"NO: it needs {least} at least, and there is {as_size(self.memory_bytes)}"
        about = "measured here:" if self.is_measured else "about"
        tuned = "" if self.tuned_bytes is None else (
            f"nearly as fast in {as_size(self.tuned_bytes)}; ")  # fmt: skip
        return (
            f"{self.word}: {about} {spoken(self.tokens_per_second)} tokens/s in "
            f"{as_size(self.memory_bytes)}; a 200-word answer takes "
            f"{duration(self.answer_seconds)}; {tuned}smallest budget {least}: {self.command}"
        )


def judge(
    rate: float,
    memory_bytes: int,
    minimum_bytes: int,
    model: str,
    talks: bool = True,
    is_measured: bool = False,
    tuned_bytes: int | None = None,
) -> Verdict:
    """The verdict on so many tokens/s in so much memory.

    Args:
        rate: tokens/s.
        memory_bytes: the budget.
        minimum_bytes: the smallest budget; a larger one than `memory_bytes` makes it NO.
        model: as it is named to a command.
        talks: whether it has a chat template.
        is_measured: the rate is.
        tuned_bytes: what `tune` found.
    """
    command = f"moeflux chat {model}" if talks else f"moeflux generate -m {model}"
    command += f" --memory {as_size(memory_bytes)}"
    if memory_bytes < minimum_bytes:
        return Verdict(NO.word, memory_bytes, minimum_bytes, None, False, None, "")
    level = next(level for level in LEVELS if rate >= level.least)
    return Verdict(level.word, memory_bytes, minimum_bytes, rate, is_measured, tuned_bytes, command)


def spoken(rate: float) -> str:
    """Two digits of a number, all of a large one: nobody predicts more."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """As people say it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than a second"
