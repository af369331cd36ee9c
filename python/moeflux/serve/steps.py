"""Steps of choices together: who makes one fail ends, and the others see nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import (
    FormatError,
    GpuError,
    Interrupted,
    IoError,
    MemoryBudgetError,
    SessionError,
)
from ..model import Model
from ..sampling import Choice
from .faults import BadReads
from .outbox import Outbox
from .sequence import Sequence

T = TypeVar("T")
Feed = list[tuple[Sequence, int]]
Done = tuple[Sequence, int, Choice | None]  # the tokens that were stepped, and the next
PANIC = "PanicException"  # of Rust code, such as llguidance's; it is no Exception


class Steps:
    """Computes the feeds of a step loop, in its thread.

    Args:
        model: whose sessions step.
        fail: ends a choice for an error.
        make_room: is told of a step that found no memory; takes a choice's session, or lets
            snapshots go.
    """

    def __init__(
        self,
        model: Model,
        fail: Callable[[Sequence, BaseException], None],
        make_room: Callable[[MemoryBudgetError], None],
    ) -> None:
        self._model, self._fail, self._make_room = model, fail, make_room
        self._bad_reads = BadReads()

    @property
    def degraded(self) -> bool:
        """Whether reads have ended several jobs within a minute."""
        return self._bad_reads.are_many(time.monotonic())

    def run(self, feed: Feed, news: Outbox) -> list[Done]:
        """Steps all of them; each that echoes in a step of its own. The news leave beside that."""
        plain = [item for item in feed if not item[0].echoes]
        echoes = [[item] for item in feed if item[0].echoes]
        with self._telling(news):
            return [item for part in (plain, *echoes) for item in self._compute(part)]

    def guarded(self, sequence: Sequence, work: Callable[..., T], *given: Any) -> T | None:
        """What the work gives; None where it ends the choice with an error."""
        try:
            return work(*given)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != PANIC:
                raise
            self._fail(sequence, error)
            return None

    @contextmanager
    def _telling(self, news: Outbox) -> Iterator[None]:
        """The news go out as soon as the model computes without Python's lock.

        Sent before the step, they would be written to clients before it, too: the lock changes
        hands where a thread wakes another one.
        """
        bells, native = news.hang(), self._model._native
        for bell in bells[1:]:
            bell.ring()
        if not bells:
            yield
            return
        with bells[0].held() as fd:
            native.ring_next(fd)
            try:
                yield
            finally:
                if native.ring_next(-1) >= 0:  # nothing was computed
                    bells[0].ring()

    def _compute(self, feed: Feed) -> list[Done]:
        """Steps those of the feed that can be; who makes the step fail ends with an error."""
        tried: set[int] = set()
        while feed := [item for item in feed if item[0].session is not None]:
            try:
                return self._run_step(feed)
            except Interrupted:
                break
            except MemoryBudgetError as error:
                self._make_room(error)
            except (IoError, FormatError, GpuError, SessionError) as error:
                blamed = [q for q, _ in feed if q.session is error.session or len(feed) == 1]
                if not blamed:
                    half = len(feed) // 2
                    return self._compute(feed[:half]) + self._compute(feed[half:])
                is_read = not isinstance(error, SessionError)
                if is_read and blamed[0].key not in tried:
                    tried.add(blamed[0].key)
                    continue
                if is_read:
                    self._bad_reads.note(time.monotonic())
                self._fail(blamed[0], error)
        return []

    def _run_step(self, feed: Feed) -> list[Done]:
        """One step of them, or the scores of one that echoes."""
        if feed[0][0].echoes:
            feed[0][0].score(feed[0][1])
            return [(*feed[0], None)]
        samplers = [self.guarded(q, q.sampler, n) for q, n in feed]
        wanted = [(q, n, one) for (q, n), one in zip(feed, samplers, strict=True)
                  if q.session is not None]  # fmt: skip
        batch = [(q.session, q.next(n)) for q, n, _ in wanted if q.session is not None]
        found = self._model.step_batch(batch, sample=[one for _, _, one in wanted])
        return [(q, n, chosen) for (q, n, _), chosen in zip(wanted, found, strict=True)]
