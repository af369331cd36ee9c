"""The fewest slots that are nearly as fast as the most: a search by measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CLOSE = 0.04  # of the most slots: no search goes on below such a step
CHECKS = 2  # times that an answer which does not hold is moved up


@dataclass(frozen=True)
class Knee:
    """What was found.

    Attributes:
        at: the fewest slots of those tried that keep the share of the best speed.
        rate: their speed.
        best: the best speed seen.
        tried: the last speed with each number of slots.
    """

    at: int
    rate: float
    best: float
    tried: dict[int, float]


def find(measure: Callable[[int], float], least: int, most: int, share: float) -> Knee:
    """Halves the range of slots while the upper end keeps `share` of the best speed.

    More slots are taken to be no slower. Neighbours make it look otherwise: so the answer and the
    most slots are measured again, in turns, and an answer that does not hold is moved up.

    Args:
        measure: the speed with so many slots, in any unit.
        least: the fewest that work.
        most: the largest number.
        share: of the best speed, in 0..1.
    """
    tried: dict[int, float] = {}

    def rate(slots: int) -> float:
        tried[slots] = measure(slots)
        return tried[slots]

    def keeps(slots: int) -> bool:
        return rate(slots) >= share * max(tried.values())

    rate(most)
    low, high = least, most
    if most > least and keeps(least):
        high = least
    while high - low > CLOSE * most:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    for _ in range(CHECKS):
        again = rate(most)
        if high == most or rate(high) >= share * again:
            break
        high = (high + most) // 2
    else:  # nothing held
        high = most
    return Knee(high, tried[high], max(tried.values()), tried)
