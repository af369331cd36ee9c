"""`RayEngine`: the Engine of replicas elsewhere. A stream whose replica is lost goes on at another.

It knows handles of Ray Serve by three methods and imports no Ray: tests give it handles of their
own.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..serve.engine import Constraint, Delta, EngineError, Health, Job, ModelInfo

TRIES = 3  # of other replicas, for a stream whose replica was lost
PAUSE = 2.0  # seconds before each but the first
PREFIX = 512  # tokens of a prompt that choose a replica where no session does
LOOK = 2.0  # seconds between two looks at a replica's state, while somebody asks for it


@dataclass(frozen=True)
class Source:
    """A grammar on its way: the replica that runs the job compiles it."""

    kind: str
    source: str
    strict: bool

    def start(self) -> Constraint:
        """Raises TypeError: this process runs no job."""
        raise TypeError("a grammar's source has no constraint: replicas compile it")


@dataclass(frozen=True)
class About:
    """What a replica says of itself."""

    info: ModelInfo
    health: Health
    stats: Mapping[str, Any]
    is_exact: bool  # the same request has the same bits at every replica of the same fingerprint


class RayEngine:
    """See `engine.Engine` for its methods.

    Args:
        handle: of the replicas: `options(stream=, session_id=)`, `submit`, `compile`, `about`.
        about: of one of them.
        tokenizer: of their model.
        lost: exceptions that mean that a replica is gone.
    """

    def __init__(
        self, handle: Any, about: About, tokenizer: Any, lost: tuple[type[BaseException], ...]
    ) -> None:
        self._handle, self._about, self._lost = handle, about, lost
        self._tokenizer = tokenizer
        self._look: asyncio.Task[None] | None = None

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        return self._about.info

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._tokenizer

    async def submit(self, job: Job) -> AsyncIterator[Delta]:
        """Runs a job, where its session or its prompt has been.

        A job whose replica is lost is sent to the next with the tokens that it has: on the CPU they
        are the ones that the other would choose, too, and the draws go on behind them.
        """
        done, is_begun, begin = list(job.done), False, time.monotonic()
        for turn in range(TRIES + 1):
            try:
                left = None if job.seconds is None else job.seconds - (time.monotonic() - begin)
                again = replace(
                    job, done=tuple(done), lost=is_begun, seconds=left and max(left, 0.0)
                )
                async for delta in self._sent(again):
                    if is_begun and turn and not (delta.tokens or delta.text or delta.finish):
                        continue  # admitted again
                    is_begun = True
                    done += delta.tokens
                    yield delta
                return
            except self._lost as error:
                if job.n > 1 or (is_begun and not self._about.is_exact) or turn == TRIES:
                    raise EngineError(f"[serve] the replica of this answer was lost "
                                      f"({type(error).__name__})") from None  # fmt: skip
            await asyncio.sleep(PAUSE if turn else 0)

    async def _sent(self, job: Job) -> AsyncIterator[Delta]:
        handle = self._handle.options(stream=True, session_id=affinity(job))
        stream = handle.submit.remote(job, self.info.fingerprint)
        try:
            async for delta in stream:
                yield delta
        finally:
            stream.cancel()  # nothing, where it has ended

    async def compile(self, kind: str, source: str, *, strict: bool = True) -> Source:
        """Has a replica try the source; the one that runs the job compiles it again."""
        await self._handle.compile.remote(kind, source, strict)
        return Source(kind, source, strict)

    def health(self) -> Health:
        """Of one replica, some seconds ago at most while somebody asks."""
        self._refresh()
        return self._about.health

    def stats(self) -> Mapping[str, Any]:
        """Of one replica, as `health`."""
        self._refresh()
        return self._about.stats

    async def drain(self, seconds: float) -> None:
        """Nothing: Ray drains replicas."""
        if self._look is not None:
            self._look.cancel()

    def _refresh(self) -> None:
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(self._ask())

    async def _ask(self) -> None:
        try:
            self._about = await self._handle.about.remote()
        except self._lost as error:
            lost = Health("degraded", detail=f"no replica answers ({type(error).__name__})")
            self._about = replace(self._about, health=lost)
        await asyncio.sleep(LOOK)


def affinity(job: Job) -> str:
    """What chooses a replica: the client's session, else how the prompt begins.

    Requests that begin alike meet the same snapshots.
    """
    if job.client.partition("/")[2]:
        return job.client
    at = next((mark for mark in job.marks if mark <= PREFIX), min(len(job.ids), PREFIX))
    return hashlib.sha256(np.asarray(job.ids[:at], np.uint32).tobytes()).hexdigest()
