"""What passes have cost: seconds by rows, seconds by client, and what prompts owe to answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

NEW = 0.25  # weight of a new measurement
FORGOTTEN = 0.95  # what a smaller pass of prompts leaves of the measured time of wider ones
HALF_LIFE = 60.0  # seconds, of what a client has used


def _size(rows: int) -> int:
    return (rows - 1).bit_length()


def owner_of(client: str) -> str:
    """The key or address of a client, who is OWNER/SESSION."""
    return client.partition("/")[0]


class Costs:
    """Measured seconds. A pass is observed once; times are given, so there is no clock here.

    Attributes:
        share: of the time, for prompts.
        debt: seconds that passes without prompts may still run before the next with one.
    """

    def __init__(self, share: float = 0.5) -> None:
        self.share = share
        self.debt = 0.0
        self._decode: dict[int, float] = {}  # by rows, of passes without prompts
        self._prompts: dict[int, float] = {}  # by rows, to the next power of two, of prompts alone
        self._used: dict[str, tuple[float, float]] = {}  # by client and owner: seconds, and when

    def observe(
        self, now: float, seconds: float, rows: Mapping[str, int], prompt: int, decoding: int
    ) -> None:
        """Counts a pass.

        Args:
            now: when it ended, in seconds of any clock.
            seconds: that it took.
            rows: tokens by client, who share its time accordingly.
            prompt: tokens of prompts among them.
            decoding: choices that decode, in this pass or at its side.
        """
        n_rows = sum(rows.values())
        for client, count in rows.items():
            for name in {client, owner_of(client)}:
                self._used[name] = self.used(name, now) + seconds * count / n_rows, now
        if len(self._used) > 1024:
            self._used = {c: e for c, e in self._used.items() if self.used(c, now) > 1e-3}
        if not prompt:
            known = self._decode.get(n_rows, seconds)
            self._decode[n_rows] = known + NEW * (seconds - known)
        if prompt and not decoding:
            size = _size(n_rows)
            known = self._prompts.get(size, seconds)
            self._prompts = {s: t if s <= size else t * FORGOTTEN for s, t in self._prompts.items()}
            self._prompts[size] = known + NEW * (seconds - known)
        if not decoding:
            self.debt = 0.0
        elif prompt:
            self.debt = max(self.debt, 0.0) + seconds * (1 - self.share) / self.share
        else:
            self.debt -= seconds

    def prompt_rows(self, rows: int, most: int, seconds: float) -> int:
        """Tokens of a pass of prompts alone that will hardly take more than so many seconds.

        From `rows` on twice as many, up to `most`, as long as the last size took less, and so did
        the next one, where that was tried. A sweep over the experts takes its time for few rows,
        too: only measuring tells.
        """
        while rows < most:
            wider = min(2 * rows, most)
            known = self._prompts.get(_size(rows), 0.0), self._prompts.get(_size(wider), 0.0)
            if max(known) > seconds:
                break
            rows = wider
        return rows

    def used(self, name: str, now: float) -> float:
        """Seconds that a client or an owner has had, half of those of a minute ago."""
        seconds, when = self._used.get(name, (0.0, now))
        return seconds * math.exp2((when - now) / HALF_LIFE)

    def decode_seconds(self, rows: int) -> float:
        """What a pass of so many decoding choices will take; 0 where nothing is known.

        From the largest measured pass up to this one, as if each row more cost as much as its rows
        did: an upper bound, since rows share experts and the dense part.
        """
        known = max((n for n in self._decode if n <= rows), default=0)
        return self._decode[known] * rows / known if known else 0.0
