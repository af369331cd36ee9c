"""What the server's engine costs: tokens a second against `step_batch` in a plain loop.

    python benchmarks/serve.py [--rounds N] [--out FILE]

The demo model, all of its experts in memory and a quarter; 1, 16 and 64 streams of 32 tokens after
prompts of 16, temperature 0.8. The plain loop steps sessions together and lets a `Generation` each
choose: what any program must do. The engine has its queue, scheduler, step thread, event loop and
delivery on top. Both take turns within a process; ratios are of medians. HTTP is not part of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from demo import machine

import moeflux
from moeflux.generation import Generation
from moeflux.sampling import SamplingParams
from moeflux.serve.engine import Job, Sampling
from moeflux.serve.local import EngineSettings, LocalEngine

STREAMS, TOKENS, PROMPT, CONTEXT = (1, 16, 64), 32, 16, 256
SLOTS = {"all": None, "quarter": 80}


def plain(model: moeflux.Model, n: int) -> float:
    """Tokens a second of n sessions that step together."""
    begin = time.perf_counter()
    sessions = [model.session() for _ in range(n)]
    prompts = [list(range(100 + i, 100 + i + PROMPT)) for i in range(n)]
    generations = [
        Generation(model.tokenizer, SamplingParams(0.8, seed=i), max_tokens=TOKENS, seen=prompts[i])
        for i in range(n)
    ]
    feeds, said = dict(enumerate(prompts)), 0
    while feeds:
        logits = model.step_batch([(sessions[i], ids) for i, ids in feeds.items()])
        for i, row in zip(list(feeds), logits, strict=True):
            part = generations[i].take(row)
            said += part is not None
            if part is None or part.token is None or generations[i].closing is not None:
                del feeds[i]
            else:
                feeds[i] = [part.token]
    return said / (time.perf_counter() - begin)


async def served(engine: LocalEngine, n: int) -> float:
    """Tokens a second of n clients of an engine."""

    async def client(i: int) -> int:
        sampling = Sampling(temperature=0.8, seed=i, max_tokens=TOKENS)
        job = Job(list(range(100 + i, 100 + i + PROMPT)), sampling, client=str(i))
        return sum([len(delta.tokens) async for delta in engine.submit(job)])

    begin = time.perf_counter()
    said = await asyncio.gather(*(client(i) for i in range(n)))
    return sum(said) / (time.perf_counter() - begin)


async def measure(max_slots: int | None, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of streams."""
    model = moeflux.load(memory="256MiB", context=CONTEXT, max_slots=max_slots)
    engine = LocalEngine(model, "demo", EngineSettings(max_running=64, cache_memory="0"))
    rows = []
    for n in STREAMS:
        found: dict[str, list[float]] = {"plain": [], "engine": []}
        for _ in range(rounds + 1):
            # The step thread sleeps while the plain loop has the model.
            found["plain"].append(plain(model, n))
            found["engine"].append(await served(engine, n))
        row = {name: statistics.median(each[1:]) for name, each in found.items()}
        ratio = row["engine"] / row["plain"]
        rows.append({"streams": n, **row, "ratio": ratio})
        print(f"{n:3} streams: {row['plain']:7.1f} and {row['engine']:7.1f} tokens/s, {ratio:.2f}")
    await engine.drain(0)
    return rows


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    for name, slots in SLOTS.items():
        print(f"experts in memory: {name}")
        found[name] = asyncio.run(measure(slots, options.rounds))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
