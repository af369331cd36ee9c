"""Where the two constants of the store's order come from: misses of many pairs, replayed.

    python benchmarks/eviction_order.py [--out benchmarks/results/eviction_order.json]

Routing of the demo model on held-out text (a trained router) and of a synthetic one of
qwen3-30b-a3b's shape, skew 0.5; a half and a quarter of the experts in memory; misses a token
after a warm-up, of plain LRU, of the store's order with each pair, and of Belady's optimum.
Nothing here is timed. Some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import eviction
import numpy as np
from demo import machine

from moeflux.trace import read_trace

DEMO = Path(__file__).parent / "traces" / "demo_heldout.npz"
DEMO_TOKENS, SYNTHETIC_TOKENS, WARM_UP = 4096, 384, 96
USE_WORTH, HALF_LIFE = (0.25, 0.5, 1.0, 2.0, 4.0), (4.0, 8.0, 16.0, 32.0, 64.0)  # slots


def study(name: str, trace: eviction.Trace, n_experts: int) -> list[dict[str, Any]]:
    """A row for each share in memory."""
    asked = eviction.requests(trace, n_experts)
    rows = []

    def per_token(misses: list[int]) -> float:
        return sum(misses[WARM_UP:]) / len(misses[WARM_UP:])

    for share in (0.5, 0.25):
        slots = int(share * trace.shape[1] * n_experts)
        pairs = {
            f"{worth:g}, {half:g}": per_token(eviction.store(asked, slots, worth, half))
            for worth, half in itertools.product(USE_WORTH, HALF_LIFE)
        }
        row = {
            "routing": name, "share": share, "slots": slots,
            "lru": per_token(eviction.lru(asked, slots)),
            "store": per_token(eviction.store(asked, slots)),
            "best_pair": min(pairs, key=lambda pair: pairs[pair]),
            "belady": per_token(eviction.belady(asked, slots)), "pairs": pairs,
        }  # fmt: skip
        best = pairs[row["best_pair"]]
        print(f"{name}, {share:.0%}: LRU {row['lru']:.2f}, store {row['store']:.2f} "
              f"({row['store'] / best - 1:+.1%} of the best pair, {row['best_pair']}), "
              f"optimum {row['belady']:.2f}", flush=True)  # fmt: skip
        rows.append(row)
    return rows


def main() -> None:
    """Prints a line a share, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    demo = read_trace(DEMO)
    synthetic = next(eviction.skewed(0, SYNTHETIC_TOKENS, 16, 128, 8, 0.5))
    rows = study("demo model", np.asarray(demo.experts)[:DEMO_TOKENS], demo.n_experts)
    rows += study("synthetic, skew 0.5", synthetic, 128)
    if options.out:
        result = {"machine": machine(), "constants": [eviction.USE_WORTH, eviction.HALF_LIFE]}
        options.out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
