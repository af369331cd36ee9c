"""How long a fork takes of a session of 1,024 and of one of 16,384 tokens.

    python benchmarks/forks.py [--out benchmarks/results/forks.json]

The demo model with all experts in memory. A fork of a session whose last extent of the KV cache has
255 of its 256 positions copies that, the most that it can; full extents are shared. Medians of 200
forks of each in turns, of the thread's processor, in microseconds; and bytes that a fork takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from demo import machine

import moeflux

LENGTHS, FORKS = (1023, 16383), 200


def main() -> None:
    """Prints, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = moeflux.load(memory="256MiB", context=16384, precision="int8", kv="float32")
    tokens = np.random.Generator(np.random.PCG64(1)).integers(0, model.vocab_size, max(LENGTHS))
    sessions = {n: model.session() for n in LENGTHS}
    for n, session in sessions.items():
        session.step(tokens[:n].tolist())
    times: dict[int, list[float]] = {n: [] for n in LENGTHS}
    nbytes = {}
    for _ in range(FORKS):
        for n, session in sessions.items():
            before, begin = model.stats["live_bytes"], time.thread_time()
            other = session.fork()
            times[n].append(time.thread_time() - begin)
            nbytes[n] = model.stats["live_bytes"] - before
            del other
    assert model.stats["slots"] == model.stats["max_slots"]
    rows = [{"tokens": n, "microseconds": 1e6 * statistics.median(times[n]), "bytes": nbytes[n]}
            for n in LENGTHS]  # fmt: skip
    for row in rows:
        print(row)
    if options.out:
        result = {"machine": machine(), "forks": FORKS, "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
