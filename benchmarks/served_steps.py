"""What a token costs the server's engine where the vocabulary is wide: builds in turns.

    PYTHONPATH=tests python benchmarks/served_steps.py SITE [SITE ...] [--rounds 5]

Each SITE is a folder that has a `moeflux` package. A tiny model of 151,936 words (two layers, made
by the tests' oracle) answers 16 streams of 16 tokens at once, temperature 0.8 and top-p 0.9. Every
round each SITE runs in a process of its own, one after the other. Prints, for each SITE, the median
over rounds of milliseconds a token: of the processor, all threads together, and of the clock.
Asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo import machine

STREAMS, TOKENS, VOCAB = 16, 16, 151_936


async def served(folder: Path) -> None:
    """Prints milliseconds a token of the processor and of the clock."""
    import moeflux
    from moeflux.serve.engine import Job, Sampling
    from moeflux.serve.local import EngineSettings, LocalEngine

    model = moeflux.load(folder, memory="512MiB", context=64, threads=1)
    engine = LocalEngine(model, "wide", EngineSettings(max_running=STREAMS, cache_memory="0"))

    async def client(i: int, n: int) -> int:
        sampling = Sampling(temperature=0.8, top_p=0.9, seed=i, max_tokens=n, ignore_eos=True)
        job = Job([100 + i, 101 + i], sampling, client=str(i))
        return sum([len(delta.tokens) async for delta in engine.submit(job)])

    await client(0, 2)  # what is compiled and read once
    begin, cpu = time.perf_counter(), time.process_time()
    said = sum(await asyncio.gather(*(client(i, TOKENS) for i in range(STREAMS))))
    cpu, begin = time.process_time() - cpu, time.perf_counter() - begin
    print(1e3 * cpu / said, 1e3 * begin / said)
    await engine.drain(0)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sites", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        asyncio.run(served(options.run))
        return
    from oracle import build

    found: dict[str, list[tuple[float, float]]] = {site: [] for site in options.sites}
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(Path(scratch) / "m", "qwen3_moe", "mlx-q4", vocab_size=VOCAB,
                       num_hidden_layers=2)  # fmt: skip
        for _ in range(options.rounds):
            for site in options.sites:
                paths = os.pathsep.join([site, str(Path(__file__).parent)])
                out = subprocess.run(
                    [sys.executable, __file__, site, "--run", str(folder)],
                    env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
                    check=True,
                ).stdout  # fmt: skip
                cpu, clock = map(float, out.split())
                found[site].append((cpu, clock))
    print(machine())
    for site, rounds in found.items():
        cpu, clock = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{site}: {cpu:.2f} ms of the processor a token, {clock:.2f} of the clock")


if __name__ == "__main__":
    main()
