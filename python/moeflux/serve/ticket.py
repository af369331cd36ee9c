"""`Ticket`: a job on its way, between the event loop that waits for it and the step thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from ..errors import MoefluxError
from .engine import Delta, Job
from .outbox import Bell
from .sequence import Sequence


class Ticket:
    """A job, its choices and the news of them. Made on the event loop that will read the news.

    Attributes:
        job: what was asked.
        sequences: its choices.
        bell: of the loop.
        cancelled: nobody waits any more. Set on the event loop, read by the step thread.
    """

    def __init__(self, job: Job, sequences: list[Sequence], bell: Bell) -> None:
        self.job, self.sequences, self.bell = job, sequences, bell
        self.cancelled = False
        self.loop = asyncio.get_running_loop()
        self._news: deque[Delta] = deque()
        self._failure: MoefluxError | None = None
        self._came = asyncio.Event()

    @property
    def done(self) -> bool:
        """Whether all choices have ended."""
        return all(sequence.finish is not None for sequence in self.sequences)

    def tell(self, deltas: Iterable[Delta]) -> None:
        """Takes news, on the event loop."""
        self._news.extend(deltas)
        self._came.set()

    def fail(self, why: MoefluxError) -> None:
        """Ends the news with an error, on the event loop; not where the last are on their way."""
        if self.done:
            return
        self._failure = why
        self._came.set()

    def fail_waiting(self, why: MoefluxError) -> None:
        """The same, unless one has had its turn: news of that come after its first step."""
        if all(sequence.taken.admitted is None for sequence in self.sequences):
            self.fail(why)

    async def news(self) -> AsyncIterator[Delta]:
        """All news, until the last choice has ended. Raises what `fail` was told."""
        left = len(self.sequences)
        while left:
            await self._came.wait()
            self._came.clear()
            while self._news:
                delta = self._news.popleft()
                left -= delta.finish is not None
                yield delta
            if left and self._failure is not None:
                raise self._failure
