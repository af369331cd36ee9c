"""A long prompt in passes of a chunk and in wide ones: bytes that are read, and time.

    python benchmarks/wide_passes.py --folder DIR [--out benchmarks/results/wide_passes.json]

A synthetic checkpoint of a real shape, cut in layers, with uniform routing: it needs nearly all
experts of a layer in any chunk. The same share of the experts has slots in every run, and what a
pass computes in is booked beside them. Each run loads the model, fills the slots by a prompt of a
chunk, and steps a prompt of --tokens. Reads go past the page cache: cold. Runs alternate between
widths, and medians count, since other work on the machine comes and goes. With --resident all
experts are in memory: that shows what a width costs or gains where nothing is read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from demo import machine

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.device import default_threads
from moeflux.families import build_spec
from moeflux.planning import plan
from moeflux.synth import Recipe, synthesize

COUNTERS = ("bytes_read", "wait_seconds", "compute_seconds", "passes", "hits", "misses")


def run(folder: Path, rows: int, share: float, tokens: int, precision: str) -> dict[str, Any]:
    """One load, one prompt."""
    checkpoint = open_checkpoint(folder)
    context, threads = 2 * tokens, default_threads()
    sizes = plan.measure(checkpoint, build_spec(checkpoint), context, threads, precision, rows=rows)
    slots = round(share * sizes.n_experts)
    memory = sizes.fixed_bytes + sizes.slots_bytes(slots)
    model = moeflux.load(folder, memory=memory, max_slots=slots, context=context, threads=threads,
                         precision=precision, rows=rows)  # fmt: skip
    numbers = np.random.Generator(np.random.PCG64(1))
    with model:
        model.session().step(numbers.integers(0, model.vocab_size, model.chunk))
        session, prompt = model.session(), numbers.integers(0, model.vocab_size, tokens)
        before, begin = model.stats, time.perf_counter()
        logits = session.step(prompt)
        seconds = time.perf_counter() - begin
        after = model.stats
    return {
        "rows": rows,
        "seconds": seconds,
        "memory_bytes": memory,
        "peak_bytes": after["peak_bytes"],
        "scratch_bytes": sizes.scratch_bytes,
        "slots": after["slots"],
        "read_mode": after["read_mode"],
        "simd": after["simd"],
        "logits": float(np.abs(logits).sum()),
        **{name: after[name] - before[name] for name in COUNTERS},
    }


def compare(runs: list[dict[str, Any]], rows: list[int]) -> dict[str, Any]:
    """Medians by width, and ratios to the narrowest; a ratio of times is one of neighbours."""
    of = {width: [r for r in runs if r["rows"] == width] for width in rows}
    first = of[rows[0]]
    if len({r["logits"] for r in runs}) != 1:
        raise SystemExit("expected the same logits of every run")
    return {
        str(width): {
            "bytes_read": found[0]["bytes_read"],
            "bytes_ratio": found[0]["bytes_read"] / max(first[0]["bytes_read"], 1),
            "seconds": statistics.median(r["seconds"] for r in found),
            "seconds_ratio": statistics.median(
                r["seconds"] / base["seconds"] for r, base in zip(found, first, strict=True)
            ),
            "wait_seconds": statistics.median(r["wait_seconds"] for r in found),
            "compute_seconds": statistics.median(r["compute_seconds"] for r in found),
            "scratch_bytes": found[0]["scratch_bytes"],
        }
        for width, found in of.items()
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shape", default="qwen3-30b-a3b")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--resident", action="store_true")
    parser.add_argument("--precision", nargs="+", default=["float32"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    share = 1.0 if args.resident else args.share
    synthesize(args.folder, Recipe(args.shape, args.layers))
    found: dict[str, Any] = {
        "machine": machine(), "shape": args.shape, "layers": args.layers,
        "tokens": args.tokens, "share": share, "reads": "cold: past the page cache",
        "precisions": {},
    }  # fmt: skip
    for precision in args.precision:
        runs = []
        for _ in range(args.rounds):
            for rows in args.rows:
                runs.append(run(args.folder, rows, share, args.tokens, precision))
                print(precision, runs[-1], flush=True)
        found["precisions"][precision] = {"ratios": compare(runs, args.rows), "runs": runs}
        print(json.dumps(found["precisions"][precision]["ratios"], indent=2), flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
