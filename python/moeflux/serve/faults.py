"""What steps that failed leave behind: reads that ended jobs, and choices that wait for memory."""

from __future__ import annotations

from collections import deque

BAD_READS, BAD_SECONDS = 3, 60.0  # so many jobs that reads have ended, within so long: degraded
MOST_DOUBLED = 8


class BadReads:
    """Jobs that reads have ended lately."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=BAD_READS)

    def note(self, now: float) -> None:
        """One more, at so many seconds of a clock."""
        self._times.append(now)

    def are_many(self, now: float) -> bool:
        """Whether the server does badly. Any thread may ask."""
        times = tuple(self._times)
        return len(times) == BAD_READS and now - times[0] < BAD_SECONDS


class SetBack:
    """Choices whose session went in a step that found no memory, where the plan had seen some.

    A step takes more than its sessions hold between steps: of a prompt in layers with a window, for
    one. Whoever came back at once would fail at once again, and snapshots would go each time. So it
    waits for two steps, and for twice as many each time that it comes back and has no token more;
    or until another choice has ended.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._known: dict[int, tuple[int, int, int]] = {}  # by key: times, tokens, until which step

    def step(self) -> None:
        """A step more."""
        self._steps += 1

    def put(self, key: int, tokens: int) -> None:
        """A choice of so many tokens has lost its session."""
        times, before, _ = self._known.get(key, (0, tokens, 0))
        times = min(times + 1, MOST_DOUBLED) if tokens == before else 1
        self._known[key] = times, tokens, self._steps + (1 << times)

    def end(self, key: int, made_room: bool) -> None:
        """A choice has ended. Where it had a session, that makes room for the others."""
        self._known.pop(key, None)
        if not made_room:
            return
        self._known = {other: (times, n, 0) for other, (times, n, _) in self._known.items()}

    def holds(self, key: int) -> bool:
        """Whether a choice waits."""
        return key in self._known and self._known[key][2] > self._steps
