"""What the engine costs beside a plain loop of `step_batch`, and how it shares a model."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import moeflux
from moeflux.sampling import Sampler, SamplingParams
from moeflux.serve.engine import Delta, Job, Sampling
from moeflux.serve.local import EngineSettings, LocalEngine

from . import Options, Row, at_least, at_most

PROMPT, CONTEXT, QUARTER = 16, 256, 80  # slots of the demo model's 320
RATES = {1: 0.90, 16: 0.90, 64: 0.85}  # of the plain loop's, by streams
STEP_MS, SEQUENCE_MS = 0.3, 0.03


class Watched:
    """A model whose steps tell what Python did between them, in seconds of its thread's processor.

    Attributes:
        between: seconds before each step that followed another one, by the choices in it.
        passes: when each step began, its seconds of the clock, and the choices in it.
    """

    def __init__(self, model: moeflux.Model) -> None:
        self._model = model
        self._left: float | None = None
        self.between: dict[int, list[float]] = defaultdict(list)
        self.passes: list[tuple[float, float, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step_batch(self, batch: Sequence[Any], **options: Any) -> list[Any]:
        """As the model's."""
        now = time.thread_time()
        if self._left is not None and all(len(ids) == 1 for _, ids in batch):
            self.between[len(batch)].append(now - self._left)
        begin = time.perf_counter()
        try:
            return self._model.step_batch(batch, **options)
        finally:
            self.passes.append((begin, time.perf_counter() - begin, len(batch)))
            self._left = time.thread_time()


def job(i: int, tokens: int, prompt: int = PROMPT, **more: Any) -> Job:
    """Job i of so many tokens; those of different i have nothing in common."""
    ids = [(37 * i + 11 * j) % 900 + 50 for j in range(prompt)]
    sampling = Sampling(temperature=0.8, seed=i, max_tokens=tokens, ignore_eos=True)
    return Job(ids, sampling, client=str(i), **more)


async def answer(engine: LocalEngine, asked: Job) -> list[Delta]:
    """All news of a job."""
    return [delta async for delta in engine.submit(asked)]


def plain(model: moeflux.Model, n: int, tokens: int) -> None:
    """N sessions that step together and sample: what any program must do."""
    asked = [job(i, tokens) for i in range(n)]
    sessions = [model.session() for _ in asked]
    ends = sorted(model.tokenizer.eos_ids)
    samplers = [
        Sampler(SamplingParams(0.8, seed=i), seen=one.ids, ends=ends, min_tokens=tokens + 1)
        for i, one in enumerate(asked)
    ]
    feeds = [list(one.ids) for one in asked]
    for _ in range(tokens):
        found = model.step_batch(list(zip(sessions, feeds, strict=True)), sample=samplers)
        feeds = [[choice.token] for choice in found]


async def serving(
    work: Callable[[LocalEngine, Watched], Awaitable[Any]], *, folder: Any = None,
    max_slots: int | None = None, memory: str = "256MiB", context: int = CONTEXT,
    rows: int | None = None, **settings: Any,
) -> Any:  # fmt: skip
    """What `work` gives of a new engine and its model."""
    model = Watched(
        moeflux.load(folder, memory=memory, context=context, max_slots=max_slots, rows=rows)
    )
    given = {"max_running": 64, "cache_memory": "0", **settings}
    engine = LocalEngine(model, "m", EngineSettings(**given))  # type: ignore[arg-type]
    try:
        return await work(engine, model)
    finally:
        await engine.drain(0)


async def _rates(engine: LocalEngine, model: Watched, options: Options) -> list[Row]:
    rows = []
    for n, bar in RATES.items():
        clock: dict[str, list[float]] = {"plain": [], "engine": []}
        cpu: dict[str, list[float]] = {"plain": [], "engine": []}

        async def engine_turn(n: int = n) -> None:
            await asyncio.gather(*(answer(engine, job(i, options.tokens)) for i in range(n)))

        async def plain_turn(n: int = n) -> None:
            plain(model._model, n, options.tokens)  # the step thread sleeps meanwhile

        for turn in range(options.rounds + 1):
            for name, work in {"plain": plain_turn, "engine": engine_turn}.items():
                begin, used = time.perf_counter(), time.process_time()
                await work()
                if turn:  # the first warms up
                    clock[name].append(time.perf_counter() - begin)
                    cpu[name].append(time.process_time() - used)
        median = {k: statistics.median(v) for k, v in clock.items()}
        used_by = {k: statistics.median(v) for k, v in cpu.items()}
        what = f"tokens/s of the engine beside step_batch and sampler, {n} streams"
        rows.append(at_least(what, median["plain"] / median["engine"], bar))
        what = f"the same by seconds of the processor, {n} streams"
        rows.append(Row(what, used_by["plain"] / used_by["engine"]))
    return rows


def rates(options: Options) -> list[Row]:
    """Rates, and the part of a step that is Python."""

    async def work(engine: LocalEngine, model: Watched) -> list[Row]:
        found = await _rates(engine, model, options)
        for n in RATES:
            milliseconds = 1e3 * statistics.median(model.between[n])
            what = f"Python of a step, {n} streams"
            found.append(at_most(what, milliseconds, STEP_MS + SEQUENCE_MS * n, "ms"))
        return found

    return asyncio.run(serving(work))  # type: ignore[no-any-return]


def prompts_together(options: Options) -> list[Row]:
    """Four prompts of 512, cold, a quarter of the experts in memory."""

    async def work(engine: LocalEngine, model: Watched, n: int) -> int:
        before = model.stats["bytes_read"]
        await asyncio.gather(*(answer(engine, job(i, 1, 512)) for i in range(n)))
        return int(model.stats["bytes_read"] - before)

    rows = []
    for wide in (2048, None):
        read = [
            asyncio.run(serving(partial(work, n=n), max_slots=QUARTER, context=1024, rows=wide))
            for n in (1, 4)
        ]
        what = "bytes read for four prompts of 512 at once, of those for one, "
        if wide:
            rows.append(at_most(f"{what}passes of {wide}", read[1] / read[0], 1.3))
        else:
            rows.append(Row(f"{what}passes as they are by default", read[1] / read[0]))
    return rows


def clients(options: Options) -> list[Row]:
    """64 clients with equal jobs, a quarter of the experts in memory."""

    async def work(engine: LocalEngine, model: Watched) -> list[Row]:
        alone, rate, ends = [], [], []
        for i in range(64):
            begin = time.perf_counter()
            alone.append(await answer(engine, job(i, options.tokens)))
            rate.append(options.tokens / (time.perf_counter() - begin))

        async def one(i: int) -> list[Delta]:
            found = await answer(engine, job(i, options.tokens))
            ends.append(time.perf_counter() - begin)
            return found

        begin = time.perf_counter()
        together = await asyncio.gather(*(one(i) for i in range(64)))
        seconds = time.perf_counter() - begin
        texts = [["".join(d.text for d in news) for news in runs] for runs in (alone, together)]
        aggregate = 64 * options.tokens / seconds / statistics.median(rate)
        stats = model.stats
        return [
            at_most("slowest of 64 equal clients, of the fastest", max(ends) / min(ends), 1.3),
            at_least("their texts that are bit-equal to alone",
                     sum(a == b for a, b in zip(*texts, strict=True)) / 64, 1.0),
            at_most("live_bytes at most, of the budget",
                    stats["peak_bytes"] / stats["memory_bytes"], 1.0),
            at_least("tokens/s of all 64, of one client alone", aggregate, 0.95),
        ]  # fmt: skip

    return asyncio.run(serving(work, max_slots=QUARTER))  # type: ignore[no-any-return]


async def _until_idle(engine: LocalEngine) -> None:
    while engine.health().running:
        await asyncio.sleep(0.001)


def cancelled(options: Options) -> list[Row]:
    """A sole prompt is given up in the middle of a pass; so is one of two answers."""

    async def work(engine: LocalEngine, model: Watched) -> list[Row]:
        aborts, left = [], []
        for i in range(4 * options.rounds):
            task = asyncio.create_task(answer(engine, job(i, 8, 1500)))
            while not engine.health().running:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            begin = time.perf_counter()
            task.cancel()
            await _until_idle(engine)
            aborts.append(time.perf_counter() - begin)
        other = asyncio.create_task(answer(engine, job(0, 1 << 10)))
        for i in range(4 * options.rounds):
            task = asyncio.create_task(answer(engine, job(1 + i, 1 << 10)))
            while engine.health().running < 2:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            gone = time.perf_counter()
            while engine.health().running == 2:
                await asyncio.sleep(0.001)
            left.append(sum(begin > gone and n == 2 for begin, _, n in model.passes))
        other.cancel()
        await _until_idle(engine)
        return [
            at_most("a sole pass is given up after", 1e3 * max(aborts), 150, "ms"),
            at_most("passes that begin with a choice after it is gone", max(left), 1),
        ]

    return asyncio.run(serving(work, context=2048))  # type: ignore[no-any-return]
