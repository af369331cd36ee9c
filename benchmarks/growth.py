"""What grows with position and with the number of experts, and what does not.

    python benchmarks/growth.py --folder DIR [--out FILE] [--plot FILE]

Decode time against position for attention layers (a line: each token reads the whole KV cache) and
for gated delta nets (flat: a state of fixed size), two small models cut from real shapes; and
decode with the experts doubled at the same K, all in memory, where a token reads no more weights
but its routers'. Checkpoints of about 3 GB are written into DIR and removed. Medians of single
steps and of rounds, which take turns between models and from short to long, so that a neighbour's
load on the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo import machine

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.device import default_threads
from moeflux.families import build_spec
from moeflux.planning import plan
from moeflux.planning.line_chart import Line, svg, write_svg
from moeflux.synth import Recipe, synthesize

POSITIONS = (64, 512, 2048, 4096, 8192)
STEPS, ROUNDS = 24, 3  # timed steps at a position; of each model
CONTEXT = POSITIONS[-1] + (STEPS + 1) * len(POSITIONS)
EXPERTS = (128, 256)
EXPERT_STEPS, EXPERT_ROUNDS = 96, 5
SMALL = ("num_experts=16", "vocab_size=4096")  # position is what is asked: the rest is kept small
PRECISION = "bfloat16"


@dataclass(frozen=True)
class Kind:
    """Layers of one sort."""

    name: str
    recipe: Recipe


KINDS = (
    Kind("attention", Recipe("qwen3-30b-a3b", 3, SMALL)),
    # Every fourth layer of this shape is attention: three are delta nets.
    Kind("delta net", Recipe("qwen3-next-80b-a3b", 3, SMALL)),
)


def load(folder: Path, recipe: Recipe, context: int) -> moeflux.Model:
    """A model that is all in memory, written where it is not there."""
    if not folder.exists():
        synthesize(folder, recipe)
    checkpoint = open_checkpoint(folder)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), context, default_threads(),
                         PRECISION)  # fmt: skip
    whole = sizes.fixed_bytes + (sizes.n_experts + 8) * sizes.slot_bytes
    return moeflux.load(folder, memory=whole, context=context, precision=PRECISION)


def step_seconds(session: moeflux.Session, tokens: list[int]) -> list[float]:
    """Of single tokens, one after the other."""
    seconds = []
    for token in tokens:
        begin = time.perf_counter()
        session.step([token])
        seconds.append(time.perf_counter() - begin)
    return seconds


def by_position(model: moeflux.Model) -> dict[int, float]:
    """Median seconds of a step at each position, one session that grows."""
    numbers = np.random.Generator(np.random.PCG64(1))
    session, found = model.session(), {}
    for position in POSITIONS:
        ids = [int(t) for t in numbers.integers(0, model.vocab_size, position + STEPS + 1)]
        session.step(ids[: position - session.position])
        session.step([ids[-1]])  # the first after a prompt finds cold caches
        found[position] = statistics.median(step_seconds(session, ids[-STEPS - 1 : -1]))
    return found


def positions(folder: Path) -> list[dict[str, Any]]:
    """A row for each kind: times, and the line through them."""
    models = [load(folder / kind.name.replace(" ", "_"), kind.recipe, CONTEXT) for kind in KINDS]
    rounds: list[list[dict[int, float]]] = [[] for _ in KINDS]
    for _ in range(ROUNDS):
        for found, model in zip(rounds, models, strict=True):
            found.append(by_position(model))
    rows = []
    for kind, found in zip(KINDS, rounds, strict=True):
        seconds = [statistics.median(times[p] for times in found) for p in POSITIONS]
        slope, start = np.polyfit(POSITIONS, seconds, 1)
        line = start + slope * np.array(POSITIONS)
        rows.append({
            "layers": kind.name, "n_layers": kind.recipe.layers, "positions": POSITIONS,
            "seconds": seconds, "seconds_per_position": float(slope),
            "seconds_at_0": float(start), "last_over_first": seconds[-1] / seconds[0],
            "off_the_line": float(np.abs(np.array(seconds) / line - 1).max()),
        })  # fmt: skip
        print(f"{kind.name}: " + ", ".join(
            f"{p}: {s * 1e3:.2f} ms" for p, s in zip(POSITIONS, seconds, strict=True)
        ) + f"; x{rows[-1]['last_over_first']:.2f}, at most {rows[-1]['off_the_line']:.0%} off the "
            "line", flush=True)  # fmt: skip
    return rows


def experts(folder: Path) -> dict[str, Any]:
    """Decode with so many experts, K the same."""
    context = 64 + EXPERT_STEPS * EXPERT_ROUNDS
    numbers = np.random.Generator(np.random.PCG64(2))
    sessions, touched = [], []
    for count in EXPERTS:
        recipe = Recipe("qwen3-30b-a3b", 2, (f"num_experts={count}", "vocab_size=4096"))
        model = load(folder / f"experts_{count}", recipe, context)
        checkpoint = open_checkpoint(folder / f"experts_{count}")
        sizes = plan.measure(checkpoint, build_spec(checkpoint), context, 1, PRECISION)
        touched.append(sizes.dense_token_bytes + sizes.expert_token_bytes)
        for _ in range(8):  # reads every expert
            model.session().step([int(t) for t in numbers.integers(0, 4096, 256)])
        sessions.append(model.session())
        sessions[-1].step([1, 2, 3])
    rounds: list[list[float]] = [[] for _ in EXPERTS]
    for _ in range(EXPERT_ROUNDS):
        ids = [int(t) for t in numbers.integers(0, 4096, EXPERT_STEPS)]
        for found, session in zip(rounds, sessions, strict=True):
            found.append(statistics.median(step_seconds(session, ids)))
    seconds = [statistics.median(found) for found in rounds]
    row = {
        "experts": EXPERTS,
        "seconds": seconds,
        "touched_bytes": touched,
        "time_ratio": seconds[1] / seconds[0],
        "bytes_ratio": touched[1] / touched[0],
    }
    print(f"experts {EXPERTS}: {seconds[0] * 1e3:.2f} and {seconds[1] * 1e3:.2f} ms a token "
          f"(x{row['time_ratio']:.3f}; bytes x{row['bytes_ratio']:.3f})", flush=True)  # fmt: skip
    return row


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints: 3 GB")
    parser.add_argument("--keep", action="store_true", help="leave them there")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    work = options.folder / "growth"
    work.mkdir(parents=True, exist_ok=True)
    try:
        result = {"machine": machine(), "precision": PRECISION, "rows": positions(work),
                  "experts": experts(work)}  # fmt: skip
    finally:
        if not options.keep:
            shutil.rmtree(work)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        lines = [
            Line(f"{row['layers']}, {row['n_layers']} layers",
                 [(p, 1e3 * s) for p, s in zip(POSITIONS, row["seconds"], strict=True)])
            for row in result["rows"]
        ]  # fmt: skip
        title = "Decode over position, all in memory"
        write_svg(options.plot, svg(title, "position", "ms a token", lines))


if __name__ == "__main__":
    main()
