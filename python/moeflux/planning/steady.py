"""Measurements on a machine that others use, too: repeated, held to what physics allows, judged.

A series maps amounts of work to the seconds that each took. Neighbours only ever slow a measurement
down, so the others of its series bound it: less work takes no longer than more, and work that is
done in turns takes as long as its turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Series = dict[int, float]

# Repetitions further apart than this come from a busy machine. What a disk gives on the machines of
# benchmarks/notebook.md differs by up to 1.46 between rounds of one run.
NOISE = 1.5
ROUNDS = 3  # of a measurement that nothing disturbs
MOST = 3  # times as many, where they disagree


@dataclass(frozen=True)
class Steady:
    """A series without contradictions; `spread`: how many times apart measurements were."""

    seconds: Series
    spread: float


def lawful(series: Series) -> Series:
    """For each amount the shortest time that any of the amounts proves to be enough."""
    return {
        n: min(seconds * max(1, -(-n // m) if m else 1)
               for m, seconds in series.items() if m or not n)
        for n in series
    }  # fmt: skip


def judge(rounds: Sequence[Series]) -> Steady:
    """The medians of the rounds, made lawful.

    `spread` is 1 when the quicker half of the rounds agrees and the medians keep the law: else the
    largest ratio of a median to its lower quartile, or to what it is bound to.
    """
    times = {n: sorted(series[n] for series in rounds) for n in rounds[0]}
    count = len(rounds)
    medians = {n: found[count // 2] for n, found in times.items()}
    seconds = lawful(medians)
    apart = [medians[n] / min(times[n][count // 4], seconds[n]) for n in medians]
    return Steady(seconds, max(apart))


def steady(measure: Callable[[int], Sequence[Series]], rounds: int = ROUNDS) -> Steady:
    """Measures so many rounds, and as many again, up to MOST times, while they disagree.

    Args:
        measure: takes a number of rounds; returns a series for each, with the same amounts in all.
        rounds: of the first measurement.
    """
    found: list[Series] = []
    while True:
        found += measure(rounds)
        result = judge(found)
        if result.spread <= NOISE or len(found) >= MOST * rounds:
            return result
