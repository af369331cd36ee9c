"""How long a call still works after `Model.abort`: in prompts, in decode, with and without reads.

    python benchmarks/abort.py [--folder DIR] [--rounds 40] [--out benchmarks/results/abort.json]

A thread aborts at a random moment of a call: a pass over 1,024 tokens, a pass over 64 tokens, 64
sequences of one token each; with all experts in memory, and with the fewest that may be and 64 MiB
beside them and the sequences. The time runs from the call of `abort` to the `Interrupted` that the
caller sees. Milliseconds: median and longest. A checkpoint of qwen3-30b-a3b's layers is made where
DIR is not given.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from demo import machine

import moeflux
from moeflux.errors import Interrupted
from moeflux.synth import Recipe, synthesize

LONG, SHORT, SEQUENCES = 1024, 64, 64
RECIPE = Recipe("qwen3-30b-a3b", layers=4)


def seconds_of(call: Callable[[], object]) -> float:
    """The time that a call takes by the clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def aborted_after(model: moeflux.Model, call: Callable[[], object], delay: float) -> float | None:
    """Seconds from an abort, `delay` into a call, to its end; None where the call was done."""
    at = []

    def work() -> None:
        time.sleep(delay)
        at.append(time.perf_counter())
        model.abort()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        call()
        return None
    except Interrupted:
        return time.perf_counter() - at[0]
    finally:
        thread.join()


def measured(model: moeflux.Model, call: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Milliseconds of `rounds` aborts at moments spread over a whole call."""
    call()
    whole = seconds_of(call)
    moments = random.Random(1)
    times: list[float] = []
    while len(times) < rounds:
        took = aborted_after(model, call, moments.uniform(0, 0.9 * whole))
        if took is not None:
            times.append(1e3 * took)
    return {"call": round(1e3 * whole, 1), "median": round(statistics.median(times), 2),
            "longest": round(max(times), 2)}  # fmt: skip


def calls_of(model: moeflux.Model) -> dict[str, Callable[[], object]]:
    """By name: the calls that are aborted; each begins where the one before it did."""
    ids = np.random.Generator(np.random.PCG64(1)).integers(0, model.vocab_size, LONG).tolist()
    alone, together = model.session(), [model.session() for _ in range(SEQUENCES)]

    def prompt(n: int) -> None:
        alone.reset()
        alone.step(ids[:n])

    def tokens() -> None:
        for session in together:
            session.reset()
        model.step_batch([(s, [t]) for s, t in zip(together, ids, strict=False)])

    return {
        f"prompt of {LONG}": lambda: prompt(LONG),
        f"prompt of {SHORT}": lambda: prompt(SHORT),
        f"a token of {SEQUENCES} sequences": tokens,
    }


def rows_of(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each call and budget."""
    rows = []
    model = moeflux.load(folder, memory="4GiB", context=2 * LONG)
    calls = calls_of(model)
    for experts in ("all", "few"):
        if experts == "few":
            held = model.session()
            caches = held.bytes(LONG) + SEQUENCES * held.bytes(1)
            model.memory = model._native.least_bytes() + caches + (64 << 20)
        for name, call in calls.items():
            rows.append({"experts": experts, "what": name} | measured(model, call, rounds))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Prints, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or synthesize(Path(made) / "model", RECIPE)
        rows = rows_of(folder, options.rounds)
    result = {"machine": machine(), "recipe": vars(RECIPE) if not options.folder else str(folder),
              "rounds": options.rounds, "milliseconds": rows}  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
