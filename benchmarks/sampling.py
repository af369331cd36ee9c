"""How long it takes to choose a token: the sampler alone, on one thread, and steps that sample.

    python benchmarks/sampling.py [--rounds 200]

The sampler chooses from float32 rows of 151,936 normal logits, of a spread as models have it (3)
and of flatter ones. Times are of the thread's processor, not of the clock, so that other work
disturbs less; milliseconds a row, median and 90 of 100. Then the demo model with all experts in
memory decodes 64 sequences on one thread: milliseconds a step that gives logits, that gives them to
a loop of samplers, and that samples itself. Prints tables in Markdown. Asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from demo import machine

import moeflux
from moeflux.sampling import Sampler, SamplingParams

VOCAB, SEQUENCES, CONTEXT = 151_936, 64, 256
SPREADS = (3.0, 1.0, 0.1)
CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    "greedy": ({}, None),
    "greedy, 5 logprobs": ({}, 5),
    "temperature": ({"temperature": 0.8}, None),
    "top-k 50, top-p 0.9": ({"temperature": 0.8, "top_k": 50, "top_p": 0.9}, None),
    "top-p 0.9": ({"temperature": 0.8, "top_p": 0.9}, None),
    "min-p 0.05": ({"temperature": 0.8, "min_p": 0.05}, None),
    "top-k 50, penalties, mask": (
        {"temperature": 0.8, "top_k": 50, "repetition_penalty": 1.1, "presence_penalty": 0.5},
        None,
    ),
}


def quantiles(times: list[float]) -> str:
    """Median and 90 of 100, in milliseconds."""
    median, late = statistics.median(times), sorted(times)[int(0.9 * len(times))]
    return f"{1e3 * median:.2f} ({1e3 * late:.2f})"


def timed(work: Callable[[], object], clock: Callable[[], float], rounds: int) -> list[float]:
    """Seconds of each round, after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        begin = clock()
        work()
        times.append(clock() - begin)
    return times[1:]


def alone(rounds: int) -> None:
    """The sampler."""
    random = np.random.Generator(np.random.PCG64(1))
    rows = {spread: random.normal(0, spread, (4, VOCAB)).astype(np.float32) for spread in SPREADS}
    seen, mask = random.integers(0, VOCAB, 5000), np.full(-(-VOCAB // 32), 2**32 - 1, np.uint32)
    print("| | " + " | ".join(f"spread {spread:g}" for spread in SPREADS) + " |")
    print("|---" * (len(SPREADS) + 1) + "|")
    for name, (options, top) in CASES.items():
        told = []
        for spread in SPREADS:
            has_all = "mask" in name
            sampler = Sampler(SamplingParams(**options, seed=1), seen=seen if has_all else (),
                              top_logprobs=top)  # fmt: skip
            sampler.mask = mask if has_all else None
            turn = iter(range(rounds + 1))
            work = lambda: sampler.choose(rows[spread][next(turn) % 4])  # noqa: B023, E731
            told.append(quantiles(timed(work, time.thread_time, rounds)))
        print(f"| {name} | " + " | ".join(told) + " |")


def in_steps(rounds: int) -> None:
    """Steps of many sequences."""
    model = moeflux.load(memory="256MiB", context=CONTEXT, threads=1)
    params = [SamplingParams(temperature=0.8, top_p=0.9, seed=i) for i in range(SEQUENCES)]
    ways: dict[str, Callable[[Any, Any], object]] = {
        "logits": lambda batch, _: model.step_batch(batch),
        "logits, then a sampler each": lambda batch, samplers: [
            sampler.choose(row)
            for sampler, row in zip(samplers, model.step_batch(batch), strict=True)
        ],
        "sampled inside": lambda batch, samplers: model.step_batch(batch, sample=samplers),
    }
    sessions = [model.session() for _ in range(SEQUENCES)]
    samplers = [Sampler(one) for one in params]
    times: dict[str, list[float]] = {name: [] for name in ways}
    model.step_batch([(session, [1, 2, 3]) for session in sessions])
    for turn in range(rounds):
        batch = [(session, [(7 * i + turn) % 4096]) for i, session in enumerate(sessions)]
        if turn % (CONTEXT - 8) == CONTEXT - 9:
            for session in sessions:
                session.reset()
        names = list(ways)
        name = names[turn % len(names)]
        begin = time.thread_time()
        ways[name](batch, samplers)
        times[name].append(time.thread_time() - begin)
    print("\n| a step of 64 sequences | milliseconds |\n|---|---|")
    for name, each in times.items():
        print(f"| {name} | {quantiles(each[1:])} |")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print(machine())
    alone(options.rounds)
    in_steps(options.rounds)


if __name__ == "__main__":
    main()
