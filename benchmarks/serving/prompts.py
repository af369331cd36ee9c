"""What prompts cost: from the cache, beside answers, and an agent's second request."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from moeflux.serve.engine import Job
from moeflux.serve.local import LocalEngine
from moeflux.synth import Recipe, synthesize

from . import Options, Row, at_least, at_most
from .engines import Watched, answer, job, serving

SHORTER = 16  # times shorter: the prompt that the long one is compared with
RECORDED = Path(__file__).parents[2] / "tests/serve/recorded"
SHELLS = {"claude": "Bash", "codex": "exec_command", "opencode": "bash"}


async def _first(engine: LocalEngine, asked: Job) -> tuple[float, float, int]:
    """Seconds to the first token, the median between others, and cached tokens."""
    begin = time.perf_counter()
    times, cached = [], 0
    async with aclosing(engine.submit(asked)) as deltas:
        async for delta in deltas:
            if delta.tokens:
                times.append(time.perf_counter() - begin)
            if delta.usage is not None:
                cached = delta.usage.cached_memory + delta.usage.cached_disk
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return times[0], statistics.median(gaps), cached


async def _ask_again(engine: LocalEngine, length: int, rounds: int) -> tuple[float, float]:
    """Medians of the first token of a prompt that is cached but for one token, and of a step."""
    await answer(engine, job(length, 1, length))
    found = []
    for _ in range(rounds + 1):
        one = await _first(engine, job(length, 8, length + 1))
        assert one[2] >= length - 1, one
        found.append(one)
    return tuple(statistics.median(column) for column in [*zip(*found[1:], strict=True)][:2])  # type: ignore[return-value]


def _restore(engine: LocalEngine, model: Watched, length: int) -> float:
    """Seconds of the processor that a session takes to go on from a cached prompt."""
    kept = engine._cache.find(job(length, 1, length + 1).ids).kept
    assert kept is not None and kept.snapshot.position >= length - 1
    times = []
    for _ in range(50):
        session = model.session()
        begin = time.thread_time()
        session.restore(kept.snapshot)
        times.append(time.thread_time() - begin)
    return statistics.median(times)


def cached(options: Options) -> list[Row]:
    """A long prompt and a short one from the cache: in memory, and on disk after a restart."""
    lengths = options.long, options.long // SHORTER
    rounds = max(options.rounds, 3)
    with tempfile.TemporaryDirectory() as scratch:
        folder = synthesize(Path(scratch) / "m", Recipe("small"))
        given: dict[str, Any] = {
            "folder": folder, "memory": "1GiB", "context": options.long + 64,
            "cache_dir": Path(scratch) / "cache", "cache_memory": "50%",
        }  # fmt: skip

        async def memory(engine: LocalEngine, model: Watched) -> list[tuple[float, float, float]]:
            return [
                (*await _ask_again(engine, n, rounds), _restore(engine, model, n)) for n in lengths
            ]

        async def disk(engine: LocalEngine, model: Watched) -> tuple[float, float, int]:
            return await _first(engine, job(lengths[0], 8, lengths[0] + 1))

        (long, step, restored), (_, _, briefly) = asyncio.run(serving(memory, **given))
        files = sorted((Path(scratch) / "cache").glob("*.mfs"), key=lambda f: f.stat().st_size)
        begin = time.perf_counter()
        files[-1].read_bytes()
        read = time.perf_counter() - begin
        again, step_then, hit = asyncio.run(serving(disk, **given))
        assert hit >= lengths[0] - 1, hit
    n = f"{options.long} tokens"
    return [
        at_most(f"first token, {n} cached in memory, beyond 2 steps", 1e3 * (long - 2 * step), 50,
                "ms"),
        at_most(f"restore of {n}, of that of a {SHORTER}th", restored / briefly, 2),
        at_most(f"first token, {n} cached on disk, beyond 2 steps and its file's read",
                1e3 * (again - 2 * step_then - read), 100, "ms"),
    ]  # fmt: skip


def beside(options: Options) -> list[Row]:
    """Answers that are written while a prompt of 4,096 tokens is computed, share 0.5."""

    async def work(engine: LocalEngine, model: Watched) -> list[Row]:
        times: list[float] = []
        stop = asyncio.Event()

        async def write(i: int) -> None:
            async with aclosing(engine.submit(job(i, 1 << 15))) as deltas:
                async for delta in deltas:
                    if delta.tokens and i == 0:
                        times.append(time.perf_counter())
                    if stop.is_set():
                        return

        writers = [asyncio.create_task(write(i)) for i in range(4)]
        shares, gaps, passes = [], [], []
        await asyncio.sleep(0.5)
        for i in range(options.rounds):
            begin = time.perf_counter()
            await asyncio.sleep(2)
            alone = _rate(times, begin, time.perf_counter())
            begin, first = time.perf_counter(), len(model.passes)
            await answer(engine, job(100 + i, 1, 4096))
            end = time.perf_counter()
            shares.append(_rate(times, begin, end) / alone)
            inside = [at for at in times if begin <= at <= end]
            gaps.append(max(b - a for a, b in itertools.pairwise(inside)))
            passes.append(max(seconds for _, seconds, _ in model.passes[first:]))
        stop.set()
        await asyncio.gather(*writers)
        return [
            at_least("rate of answers while a prompt of 4,096 is computed, of alone",
                     statistics.median(shares), 0.45),
            at_most("their longest gap, of the longest pass",
                    statistics.median(gap / one for gap, one in zip(gaps, passes, strict=True)),
                    1.2),
        ]  # fmt: skip

    with tempfile.TemporaryDirectory() as scratch:
        folder = synthesize(Path(scratch) / "m", Recipe("small"))
        given: dict[str, Any] = {"folder": folder, "memory": "1GiB", "context": 40_960}
        return asyncio.run(serving(work, **given))  # type: ignore[no-any-return]


def _rate(times: list[float], begin: float, end: float) -> float:
    return sum(begin <= at <= end for at in times) / (end - begin)


def agents(options: Options) -> list[Row]:
    """Recorded requests of three agents, at their length: what the second one need not compute."""
    sys.path[:] = [p for p in sys.path if Path(p).name != "benchmarks"]
    from serve.asking import ask
    from serve.scripted import ScriptedEngine

    rows = []
    for agent, shell in SHELLS.items():
        call = json.dumps({"name": shell, "arguments": {"command": "ls"}})
        said = f"Sure.\n<tool_call>\n{call}\n</tool_call>"
        engine = ScriptedEngine({"": said}, context=1 << 20)
        for one in json.loads((RECORDED / f"{agent}.json").read_text()):
            ask(engine, one["path"], _at_length(one["body"]), headers=one["headers"])
        first, second = engine.jobs[-2:]
        held = [*first.ids, *engine.tokenizer.encode(said, add_special_tokens=False)]
        ends = [*first.marks, len(first.ids), len(held)]
        known = max(end for end in ends if list(second.ids[:end]) == held[:end])
        what = f"second request of {agent}, {len(second.ids)} tokens: cached"
        rows.append(at_least(what, known / len(second.ids), 0.99))
    return rows


def _at_length(value: Any) -> Any:
    """A recorded body whose cut texts are as long again as they were."""
    if isinstance(value, dict):
        return {key: _at_length(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_length(item) for item in value]
    found = re.fullmatch(r"(.*)\.\.\. \((\d+) characters\)", value, re.DOTALL) if isinstance(
        value, str) else None  # fmt: skip
    if found is None:
        return value
    text, length = found[1], int(found[2])
    return (text + " and so on" * (length // 10 + 1))[:length]
