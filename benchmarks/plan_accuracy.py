"""How close `moeflux plan` comes: predicted against measured tokens/s, two shapes, three budgets.

    python benchmarks/plan_accuracy.py --folder DIR [--out benchmarks/results/plan_accuracy.json]

Synthetic checkpoints (cut in layers, mildly skewed routing) are written, measured and removed one
after the other; with --keep they stay, and the next run goes on from them. For each budget: the
probe, then a warm-up, then timed decode steps of random tokens; the prediction is made for the hit
rate of exactly those steps. Rounds alternate between the budgets and medians of the ratios count,
since other work on the machine comes and goes. The bar is 20 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
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
from moeflux.packing import pack
from moeflux.planning import plan, probe
from moeflux.synth import Recipe, synthesize

SHAPES = {"qwen3-30b-a3b": 10, "qwen3.6-35b-a3b": 12}
SHARES = (0.25, 0.5, 1.0)  # of all experts in memory
SKEW = 0.5
CONTEXT, WARM_UP, TIMED = 512, 64, 64
ROUNDS = 3


def measure(folder: Path, memory: int, n_warm_up: int, layout: str) -> dict[str, Any]:
    """One model at one budget: what was predicted, what came out."""
    checkpoint = open_checkpoint(folder)
    spec = build_spec(checkpoint)
    threads = default_threads()
    sizes = plan.measure(checkpoint, spec, CONTEXT, threads)
    model = moeflux.load(folder, memory=memory, context=CONTEXT, threads=threads,
                         read_ahead=False)  # fmt: skip
    session = model.session()
    numbers = np.random.Generator(np.random.PCG64(1))
    if n_warm_up > WARM_UP:  # fills memory fast: a prompt reads each expert once
        session.step(numbers.integers(0, model.vocab_size, n_warm_up - WARM_UP))
    for token in numbers.integers(0, model.vocab_size, WARM_UP):
        session.step([token])
    machine = probe.machine(spec, checkpoint.files, sizes.slot_bytes, threads)
    before, begin = model.stats, time.perf_counter()
    for token in numbers.integers(0, model.vocab_size, TIMED):
        session.step([token])
    seconds = time.perf_counter() - begin
    after = model.stats
    hits, misses = (after[key] - before[key] for key in ("hits", "misses"))
    rate = hits / (hits + misses)
    position = session.position - TIMED // 2
    predicted = plan.speed(sizes, machine, rate, position)
    return {
        "layout": layout,
        "memory_bytes": memory,
        "slots": after["slots"],
        "hit_rate": rate,
        "predicted_hit_rate": plan.expected_hit_rate(sizes, after["slots"], SKEW),
        "measured": TIMED / seconds,
        "predicted": predicted.tokens_per_second,
        "ratio": predicted.tokens_per_second * seconds / TIMED,
        "compute_seconds": (after["compute_seconds"] - before["compute_seconds"]) / TIMED,
        "wait_seconds": (after["wait_seconds"] - before["wait_seconds"]) / TIMED,
        "predicted_compute_seconds": predicted.compute_seconds,
        "predicted_read_seconds": predicted.read_seconds,
        "disk": machine.disk.by_batch,
        "kernel_rate": machine.kernels.bytes_per_second,
        "stage_seconds": machine.kernels.stage_seconds,
        "memory_rate": machine.memory_rate,
        "layer_seconds": machine.layer.by_misses if machine.layer else {},
        "read_mode": after["read_mode"],
    }


def shape_rows(root: Path, name: str, layers: int, rounds: int, keep: bool) -> list[dict[str, Any]]:
    """All budgets and layouts of one shape, medians over rounds."""
    folders = {"in place": synthesize(root / name, Recipe(name, layers, skew=SKEW))}
    folders["packed"] = pack(folders["in place"], root / f"{name}-packed")
    checkpoint = open_checkpoint(folders["in place"])
    sizes = plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, default_threads())
    cases = [
        (layout, share, sizes.fixed_bytes + round(sizes.n_experts * share) * sizes.slot_bytes)
        for layout in folders
        for share in SHARES
    ]
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for layout, share, memory in cases:
            n_warm_up = WARM_UP + (256 if share == 1 else 64)
            row = measure(folders[layout], memory, n_warm_up, layout)
            row |= {"shape": name, "layers": layers, "share": share}
            print(f"{name:16} {layout:9} {share:4.0%} of experts, hit rate {row['hit_rate']:4.0%}: "
                  f"predicted {row['predicted']:6.2f}, measured {row['measured']:6.2f} tokens/s, "
                  f"ratio {row['ratio']:.2f}", flush=True)  # fmt: skip
            found.setdefault((layout, share), []).append(row)
    for folder in () if keep else folders.values():
        shutil.rmtree(folder)
    out = []
    for rows in found.values():
        middle = sorted(rows, key=lambda row: row["ratio"])[len(rows) // 2]
        out.append(middle | {"ratios": [row["ratio"] for row in rows]})
    return out


def main() -> None:
    """Runs it all, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to be measured")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--shape", choices=SHAPES, help="one shape only")
    parser.add_argument("--layers", type=int, help="instead of the shape's number here")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints in place")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, layers in SHAPES.items():
        if options.shape in (None, name):
            rows += shape_rows(options.folder, name, options.layers or layers, options.rounds,
                               options.keep)  # fmt: skip
    within = sum(0.8 <= row["ratio"] <= 1.2 for row in rows)
    print(f"{within} of {len(rows)} within 20 %; median ratio "
          f"{statistics.median(row['ratio'] for row in rows):.2f}")  # fmt: skip
    if options.out:
        result = {"machine": machine(), "rows": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
