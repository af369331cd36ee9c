"""`Leaders`: an Engine before another, which has what prompts share computed once.

Jobs wait here, sorted by their tokens. One that shares its beginning with a prompt that is being
read waits until that has been read, and goes on from its snapshot. The first of them is told where
the others leave it, so that it has a snapshot there.
"""

from __future__ import annotations

import asyncio
import bisect
import heapq
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import Delta, Engine, Grammar, Health, Job, ModelInfo

Tokens = NDArray[np.uint32]

LEAST = 32  # tokens that are worth waiting for
MARKS = 8  # snapshots of a prompt for others, at most
REMEMBERED = 1 << 20  # tokens of prompts that have been read, and
MOST_REMEMBERED = 256  # such prompts
PATIENCE = 1.0  # seconds that jobs wait for one that comes
COMPILED_AT_ONCE = 2  # as many threads as an engine has for grammars: more would be refused


class _Held:
    """A job, from its arrival to its first token.

    Attributes:
        ids: tokens of the prompt, as a list.
        turn: is done once the job may go.
        marks: lengths of the prompt after which there is a snapshot, once it has been read.
        promised: tokens that this job can take from each job that is being read.
        have: tokens that it can take from a prompt that has been read.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.ids = job, list(job.ids)
        self.tokens = np.asarray(self.ids, np.uint32)
        self.turn: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self.marks = list(job.marks)
        self.promised: dict[_Held, int] = {}
        self.have = 0

    @property
    def must_wait(self) -> bool:
        """Whether another job is about to compute what this one needs."""
        return max(self.promised.values(), default=0) >= self.have + LEAST


class _Read(NamedTuple):
    """A prompt that has been read: its tokens up to the last mark, and the marks."""

    tokens: Tokens
    marks: list[int]


class Leaders:
    """See `engine.Engine` for its methods.

    Args:
        engine: that computes; all its jobs come from here.
        most: jobs that it has at once.
    """

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine, self._most = engine, most
        self._held: list[_Held] = []  # sorted
        self._reading: set[_Held] = set()
        self._read: deque[_Read] = deque(maxlen=MOST_REMEMBERED)
        self._coming: set[str] = set()  # ids of jobs
        self._patience: asyncio.TimerHandle | None = None  # while any are coming
        self._running = 0
        self._compilers = asyncio.Semaphore(COMPILED_AT_ONCE)

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        return self._engine.info

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._engine.tokenizer

    def expect(self, job_id: str) -> None:
        """A job of this id comes soon; for a while no other one goes before it has.

        Those that would go on from each other's prompts are to be known together.
        """
        self._coming.add(job_id)
        if self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE, self._stop_waiting)

    def arrived(self, job_id: str) -> None:
        """It has come, or will not come."""
        self._coming.discard(job_id)
        if not self._coming and self._patience is not None:
            self._patience.cancel()
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        self._coming.clear()
        self._patience = None
        self._go()

    async def submit(self, job: Job) -> AsyncIterator[Delta]:
        """Runs a job, in its turn."""
        held = _Held(job)
        self._arrives(held)
        try:
            given = await held.turn
            async with aclosing(self._engine.submit(given)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    if delta.tokens or delta.finish:
                        self._was_read(held)
                    yield delta
        finally:
            self._leaves(held)

    async def compile(self, kind: str, source: str, *, strict: bool = True) -> Grammar:
        """Compiles a grammar; others wait meanwhile."""
        async with self._compilers:
            return await self._engine.compile(kind, source, strict=strict)

    def health(self) -> Health:
        """How it does now."""
        return self._engine.health()

    def stats(self) -> Mapping[str, Any]:
        """The engine's."""
        return self._engine.stats()

    async def drain(self, seconds: float) -> None:
        """Ends the engine."""
        await self._engine.drain(seconds)

    def _arrives(self, held: _Held) -> None:
        if held.job.echo is None:  # a prompt that is scored takes no snapshot and leaves none
            held.promised = {other: _usable(held, other.tokens, other.marks)
                             for other in self._reading}  # fmt: skip
            held.have = max((_usable(held, *read) for read in self._read), default=0)
        bisect.insort(self._held, held, key=lambda other: other.ids)
        self.arrived(held.job.id)
        self._go()

    def _go(self) -> None:
        """Lets those go whose turn it is."""
        if self._coming:
            return
        for held in tuple(self._held):
            if self._running >= self._most:
                return
            if held.turn.done() or held.must_wait:  # done: it was given up meanwhile
                continue
            self._held.remove(held)
            self._running += 1
            held.turn.set_result(self._led(held))

    def _led(self, held: _Held) -> Job:
        """The job, with snapshots where those who wait leave it."""
        if held.job.echo is not None:
            return held.job
        followers = [other for other in self._held if other.job.echo is None]
        leave = Counter(_alike(other, held.tokens) for other in followers)
        gains = {at: (at - held.have) * count for at, count in leave.items()
                 if held.have + LEAST <= at < len(held.ids)}  # fmt: skip
        best = heapq.nlargest(MARKS, gains, key=lambda at: gains[at])
        held.marks = sorted({*held.marks, *best})
        self._reading.add(held)
        for other in followers:
            other.promised[held] = _usable(other, held.tokens, held.marks)
        return replace(held.job, marks=held.marks)

    def _was_read(self, held: _Held) -> None:
        if held not in self._reading:
            return
        self._reading.remove(held)
        self._remember(held)
        for other in self._held:
            other.have = max(other.have, other.promised.pop(held, 0))
        self._go()

    def _remember(self, held: _Held) -> None:
        if held.marks:
            self._read.append(_Read(held.tokens[: held.marks[-1]].copy(), held.marks))
        while sum(len(read.tokens) for read in self._read) > REMEMBERED:
            self._read.popleft()

    def _leaves(self, held: _Held) -> None:
        if held in self._held:  # given up before its turn
            self._held.remove(held)
            return
        self._running -= 1
        self._reading.discard(held)
        for other in self._held:
            other.promised.pop(held, None)
        self._go()


def _alike(held: _Held, tokens: Tokens) -> int:
    """Tokens with which both begin; the last one of a prompt is always computed."""
    most = min(len(held.ids) - 1, len(tokens))
    differ = held.tokens[:most] != tokens[:most]
    return int(differ.argmax()) if differ.any() else most


def _usable(held: _Held, tokens: Tokens, marks: list[int]) -> int:
    """Tokens of a job that a snapshot of another one has."""
    alike = _alike(held, tokens)
    return max((mark for mark in marks if mark <= alike), default=0)
