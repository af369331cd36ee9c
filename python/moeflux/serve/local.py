"""`LocalEngine`: the Engine of a model in this process."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..arguments import PATH, Rule, check, integer, is_integer, number, optional, token_ids
from ..errors import SessionError
from ..memory import parse_bytes
from ..model import Model
from ..tokenizer import MAX_FILE_BYTES, Tokenizer
from .constrain import Compiled, Compiler
from .disk_cache import DiskCache
from .engine import Busy, Delta, EngineError, Health, Job, Late, ModelInfo
from .info import describe
from .loop import StepLoop
from .memory import Room
from .metrics import Metrics
from .outbox import Bell
from .prefix_cache import PrefixCache
from .scheduler import Limits
from .sequence import Sequence as Choice
from .settings import SECONDS
from .ticket import Ticket

COMPILE_THREADS, COMPILE_SECONDS = 2, 2.0
RETRY_LATE = 10  # seconds after which whoever found no place may ask again
CACHE_DISK, CACHE_WRITES = "8GiB", "20GiB"  # of files where a folder is given alone
WRITE_SECONDS = 10.0  # at least, at the end, for snapshots that are worth a file
SHARE = Rule("a size such as 2GiB, or a share such as 25%", lambda value: _share(value) is not None)
BYTES = Rule("a size such as 8GiB", lambda value: isinstance(_share(value), int))
RULES = {
    "max_running": optional(integer(1)),
    "max_queued": integer(0),
    "queue_timeout": optional(SECONDS),
    "min_rate": number("above 0", lambda value: value > 0),
    "prefill_share": number("above 0 and below 1", lambda value: 0 < value < 1),
    "reserve": optional(number("of 0 or more and below 1", lambda value: 0 <= value < 1)),
    "cache_memory": SHARE,
    "cache_dir": optional(Rule("a path", lambda value: PATH.fits(value) and value != "")),
    "cache_disk": optional(BYTES),
    "cache_writes": optional(BYTES),
}
JOB_RULES = {
    "n": integer(1, 16),
    "echo": optional(integer(0, 1 << 20)),
    "seconds": optional(number("of seconds of 0 or more", lambda value: 0 <= value < 1e9)),
}
SAMPLING_RULES = {
    "presence_penalty": number("below infinity", lambda value: abs(value) < float("inf")),
    "frequency_penalty": number("below infinity", lambda value: abs(value) < float("inf")),
    "min_tokens": integer(0),
    "max_tokens": optional(integer(0)),
    "top_logprobs": optional(integer(0)),
}


@dataclass(frozen=True)
class EngineSettings:
    """How an engine shares a model between clients.

    Attributes:
        max_running: choices at once; None: as many as keep `min_rate`, 64 at most.
        max_queued: choices that wait; a job more is refused.
        queue_timeout: seconds that a job may wait for its first place; None: any.
        min_rate: tokens a second of each choice that `max_running` None looks for.
        prefill_share: of the time, for prompts, while answers are written.
        reserve: share of memory and places that answers which were lost elsewhere find; new ones
            wait. None: none, and of N replicas an Nth.
        cache_memory: bound of snapshots: a size, or a share of what is free after the load.
        cache_dir: folder of snapshots in files, which outlive the engine; None: there is none.
        cache_disk: bound of all files there; None: `CACHE_DISK`.
        cache_writes: bound of what is written there in 24 hours; None: `CACHE_WRITES`.

    Raises:
        SessionError: a value breaks its rule, or there is a bound of files and no folder.
    """

    max_running: int | None = None
    max_queued: int = 64
    queue_timeout: float | None = None
    min_rate: float = 1.0
    prefill_share: float = 0.5
    reserve: float | None = None
    cache_memory: str = "25%"
    cache_dir: str | os.PathLike[str] | None = None
    cache_disk: str | None = None
    cache_writes: str | None = None

    def __post_init__(self) -> None:
        check("serve", SessionError, RULES, vars(self))
        for name in ("cache_disk", "cache_writes"):
            if getattr(self, name) is not None and self.cache_dir is None:
                raise SessionError(f"[serve] {name}: expected a cache_dir with it, found none")


class LocalEngine:
    """Serves one model. See `engine.Engine` for its methods.

    Args:
        model: that nobody else uses from now on.
        name: that clients call it by.
        settings: see EngineSettings.
        metrics: None makes new ones.
    """

    def __init__(
        self,
        model: Model,
        name: str = "model",
        settings: EngineSettings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        s = self._settings = settings or EngineSettings()
        self._model, self._tokenizer = model, model.tokenizer
        self.metrics = metrics or Metrics()
        context = model.session().context
        self._info = describe(model, name, context)
        room = Room(model, context)
        limits = Limits(rows=model.chunk, wide=model.rows, max_running=s.max_running,
                        min_rate=s.min_rate, share=s.prefill_share, kept_bytes=room.kept_bytes,
                        reserve=s.reserve or 0.0, session_bytes=room.free_bytes)  # fmt: skip
        self._cache = PrefixCache(_size(s.cache_memory, room.free_bytes))
        self._disk = (
            DiskCache(Path(s.cache_dir), parse_bytes(s.cache_disk or CACHE_DISK), model,
                      parse_bytes(s.cache_writes or CACHE_WRITES))
            if s.cache_dir is not None else None
        )  # fmt: skip
        self._loop = StepLoop(model, limits, self._cache, room, self.metrics, self._disk)
        self.metrics.describe(self._info, lambda: self._loop.counts)
        source = model.path / "tokenizer.json"
        self._compiler = Compiler(
            files.read(source, MAX_FILE_BYTES).decode() if files.mode(source)
            else self._tokenizer.json,  # a GGUF file's
            self._tokenizer.eos_ids, model.vocab_size,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(COMPILE_THREADS, "moeflux-grammar")
        self._compilers = asyncio.Semaphore(COMPILE_THREADS)  # threads that are free
        self._keys = itertools.count()
        self._open: set[Ticket] = set()
        self._bells: dict[asyncio.AbstractEventLoop, Bell] = {}
        self._draining = False
        self._loop.start()

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    async def submit(self, job: Job) -> AsyncIterator[Delta]:
        """Runs a job; see `Engine.submit`."""
        self._check(job)
        if self._loop.failure is not None:
            raise EngineError("[serve] the engine has failed")
        if self._draining:
            raise Busy("[serve] the server is about to end", retry_after=5)
        if not (job.lost or job.done) and self._loop.is_full(self._settings.max_queued):
            raise Busy(f"[serve] {self._settings.max_queued} choices wait already")
        now = time.monotonic()
        choices = [
            Choice(job, i, next(self._keys), self._tokenizer, self._info.context)
            for i in range(job.n)
        ]
        for choice in choices:
            choice.taken.submitted = now
        ticket = Ticket(job, choices, self._bell())
        self._open.add(ticket)
        timers = self._timers(ticket)
        self._loop.submit(ticket)
        try:
            async for delta in ticket.news():
                yield delta
        finally:
            for timer in timers:
                timer.cancel()
            self._open.discard(ticket)
            if not ticket.done:
                self._loop.cancel(ticket)

    def _bell(self) -> Bell:
        """Of this event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._bells:
            for over in [other for other in self._bells if other.is_closed()]:
                self._bells.pop(over).close()
            self._bells[loop] = Bell()
        return self._bells[loop]

    def _timers(self, ticket: Ticket) -> list[asyncio.TimerHandle]:
        """Those that end a job which waits or takes too long."""
        later, timers = ticket.loop.call_later, []
        if (most := self._settings.queue_timeout) is not None:
            busy = Busy(f"[serve] no place for this request in {most:g} seconds", RETRY_LATE)
            timers.append(later(most, ticket.fail_waiting, busy))
        if (most := ticket.job.seconds) is not None:
            late = Late("[serve] the request took longer than it may")
            timers.append(later(most, ticket.fail, late))
        return timers

    async def compile(self, kind: str, source: str, *, strict: bool = True) -> Compiled:
        """Compiles a grammar; see `Engine.compile`."""
        try:
            await asyncio.wait_for(self._compilers.acquire(), COMPILE_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            raise Busy("[grammar] other grammars take long to compile") from None
        work = asyncio.get_running_loop().run_in_executor(
            self._pool, self._compiler.compile, kind, source, strict
        )
        work.add_done_callback(lambda _: self._compilers.release())
        try:
            return await asyncio.wait_for(asyncio.shield(work), COMPILE_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            raise SessionError(
                f"[grammar] expected a grammar that is compiled in {COMPILE_SECONDS:g} seconds"
            ) from None

    def health(self) -> Health:
        """How it does now."""
        running, waiting = self._loop.counts
        if self._loop.failure is not None:
            return Health("failed", 0, 0, f"the step thread has ended: {self._loop.failure}")
        if self._draining:
            return Health("draining", running, waiting, "the server is about to end")
        if self._loop.degraded:
            return Health("degraded", running, waiting, "reads of experts have failed")
        return Health("ok", running, waiting)

    def stats(self) -> Mapping[str, Any]:
        """The model's counters as of the last step; choices that run and wait; the cache's."""
        running, waiting = self._loop.counts
        cache = {"cached_bytes": self._cache.nbytes, "cache_bytes": self._cache.max_bytes,
                 "disk_bytes": self._disk.nbytes if self._disk is not None else 0}  # fmt: skip
        return {**self._loop.stats, **cache, "running": running, "waiting": waiting}

    async def drain(self, seconds: float) -> None:
        """Takes no more jobs, lets running ones finish for so long, ends the rest and stops."""
        self._draining = True
        deadline = time.monotonic() + seconds
        while self._open and time.monotonic() < deadline and self._loop.failure is None:
            await asyncio.sleep(0.01)
        for ticket in self._open:
            self._loop.cancel(ticket)
        await asyncio.get_running_loop().run_in_executor(None, self._stop, deadline)
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._bells:
            self._bells.popitem()[1].end()

    def abort(self) -> None:
        """Ends the step in progress and all jobs, from any thread; does not wait."""
        self._draining = True
        self._loop.abort()
        self._loop.prefixes.abort()

    def _stop(self, deadline: float) -> None:
        self._loop.stop()
        self._loop.prefixes.close(max(deadline - time.monotonic(), WRITE_SECONDS))

    def _check(self, job: Job) -> None:
        """Raises SessionError for a job that no engine can do."""
        ids, info = token_ids(job.ids, "prompt"), self._info
        if not 0 < ids.size <= info.context:
            raise SessionError(f"[serve] expected a prompt of 1 to {info.context} tokens, found "
                               f"{ids.size}")  # fmt: skip
        every = (int(ids.max()), *job.done, *job.sampling.bias, *job.sampling.stop_ids)
        odd = [i for i in every if not (is_integer(i) and 0 <= i < info.vocab_size)]
        if odd:
            raise SessionError(f"[serve] expected token ids below {info.vocab_size}, found "
                               f"{odd[0]}")  # fmt: skip
        check("serve", SessionError, JOB_RULES, vars(job))
        check("serve", SessionError, SAMPLING_RULES, vars(job.sampling))
        job.sampling.params(0)


def _share(text: Any) -> float | int | None:
    """A share of one as float, bytes as int; None for neither."""
    if not isinstance(text, str):
        return None
    if text.endswith("%"):
        try:
            share = float(text[:-1]) / 100
        except ValueError:
            return None
        return share if 0 <= share <= 1 else None
    if text == "0":
        return 0
    try:
        return parse_bytes(text)
    except ValueError:
        return None


def _size(text: str, free: int) -> int:
    share = _share(text)
    assert share is not None
    return int(free * share) if isinstance(share, float) else min(share, free)
