"""How much eight sequences that step together can save: the limit, from routing alone.

    python benchmarks/sequences.py [--folder DIR] [--out FILE] [--plot FILE]

A step reads each missing expert once for all sequences that use it. From traces of one and of eight
sequences: misses a generated token of plain LRU, of the store's order and of Belady's optimum
(eviction.py), at a half and a quarter of the model in memory; and what the ratio of two such
numbers makes of the tokens/s, if nothing were between the engine and `max(touched bytes / M,
missing bytes / W)`. Routing: synthetic routers of qwen3-30b-a3b's shape at several skews, the demo
model's on held-out text (it was trained), and what a checkpoint in DIR (moeflux synth) really does.
Nothing here is timed but M and W.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import eviction
import numpy as np
from compare import disk_rates
from demo import machine

import moeflux
from moeflux import hub
from moeflux.checkpoint import Checkpoint, open_checkpoint
from moeflux.families import build_spec
from moeflux.planning import plan, probe
from moeflux.planning.line_chart import Line, svg, write_svg
from moeflux.trace import read_trace
from support.paper import on_paper

SEQUENCES = (1, 2, 4, 8)
SHARES = (0.5, 0.25)
SKEWS = (0.0, 0.5, 1.0, 1.5, 2.0)
SHAPE, LAYERS = "qwen3-30b-a3b", 16  # cut in layers as in compare.py
WARM_UP, STEPS = 64, 320  # of each sequence
BAR = 3.0
DEMO = Path(__file__).parent / "traces" / "demo_heldout.npz"
DEMO_WINDOW = 512  # tokens of each of its texts


@dataclass(frozen=True)
class Shape:
    """What turns a share of memory into slots, and misses into seconds."""

    n_experts: int  # a layer
    layers: int
    top_k: int
    expert_bytes: int
    dense_bytes: int  # of weights that a step goes through, however many sequences
    fixed_bytes: int  # beside slots and sessions
    session_bytes: int
    total_bytes: int  # resident weights and all experts

    def slots(self, share: float, sequences: int) -> int:
        """With `share` of the model's bytes as the budget."""
        room = share * self.total_bytes - self.fixed_bytes - sequences * self.session_bytes
        return int(room // self.expert_bytes)


def shape_of(checkpoint: Checkpoint) -> Shape:
    """A checkpoint's numbers."""
    sizes = plan.measure(checkpoint, build_spec(checkpoint), WARM_UP + STEPS, 2, "bfloat16")
    return Shape(
        n_experts=sizes.experts_per_layer, layers=sizes.n_layers, top_k=sizes.top_k,
        expert_bytes=sizes.expert_bytes, dense_bytes=sizes.dense_token_bytes,
        fixed_bytes=sizes.resident_bytes + sizes.scratch_bytes, session_bytes=sizes.session_bytes,
        total_bytes=sizes.resident_bytes + sizes.n_experts * sizes.expert_bytes,
    )  # fmt: skip


def experts_only(shape: Shape) -> Shape:
    """The same, where a share of the experts is meant: of the demo model a quarter holds none."""
    total = shape.layers * shape.n_experts * shape.expert_bytes
    return replace(shape, fixed_bytes=0, session_bytes=0, total_bytes=total)


def misses(traces: Sequence[eviction.Trace], n: int, shape: Shape, slots: int) -> dict[str, float]:
    """Per generated token, n sequences in a step; mean over groups of n among the traces."""
    found: dict[str, list[float]] = {name: [] for name in (*eviction.POLICIES, "used")}
    for begin in range(0, len(traces) - n + 1, n):
        asked = eviction.requests(eviction.union(traces[begin : begin + n]), shape.n_experts)
        for name, policy in eviction.POLICIES.items():
            found[name].append(sum(policy(asked, slots)[WARM_UP:]))
        found["used"].append(sum(len(keys) for step in asked[WARM_UP:] for keys in step))
    tokens = n * (len(traces[0]) - WARM_UP)
    return {name: float(np.mean(counts)) / tokens for name, counts in found.items()}


def study(
    name: str, traces: Sequence[eviction.Trace], shape: Shape, memory_rate: float, disk: float
) -> list[dict[str, Any]]:
    """A row for each share of the experts in memory."""
    rows = []
    for share in SHARES:
        by_n: dict[str, dict[str, Any]] = {}
        for n in SEQUENCES:
            slots = shape.slots(share, n)
            found = misses(traces, n, shape, slots)
            touched = shape.dense_bytes / n + found["used"] * shape.expert_bytes
            seconds = {policy: max(touched / memory_rate, found[policy] * shape.expert_bytes / disk)
                       for policy in eviction.POLICIES}  # fmt: skip
            by_n[str(n)] = {"slots": slots} | found
            by_n[str(n)] |= {f"{policy}_bound": 1 / s for policy, s in seconds.items()}
        one, most = by_n["1"], by_n[str(SEQUENCES[-1])]
        row = {
            "routing": name, "share": share, "sequences": by_n,
            "misses_ratio": {p: one[p] / most[p] if most[p] else None for p in eviction.POLICIES},
            "bound_ratio": {p: most[f"{p}_bound"] / one[f"{p}_bound"] for p in eviction.POLICIES},
        }  # fmt: skip
        reachable = row["bound_ratio"]["belady"] >= BAR
        print(f"{name:28} {share:.0%}: misses a token, one and eight sequences: "
              + ", ".join(f"{p} {one[p]:.1f} {most[p]:.1f}" for p in eviction.POLICIES)
              + f"; bound x{row['bound_ratio']['store']:.2f} (store), "
              f"x{row['bound_ratio']['belady']:.2f} (optimum){'' if reachable else ' < bar'}",
              flush=True)  # fmt: skip
        rows.append(row)
    return rows


def recorded(folder: Path, memory: str) -> list[eviction.Trace]:
    """Routing of eight sequences of random tokens of a checkpoint."""
    n, length = SEQUENCES[-1], WARM_UP + STEPS
    model = moeflux.load(folder, memory=memory, context=length, precision="bfloat16")
    numbers = np.random.Generator(np.random.PCG64(7))
    traces = []
    for _ in range(n):
        ids = [int(t) for t in numbers.integers(0, model.vocab_size, length)]
        traces.append(model.session().step(ids, capture={"experts"})["experts"])
    return traces


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The bound's ratio over sequences, by routing, at a quarter; solid: store, dashed: optimum."""
    lines = []
    for row in rows:
        if row["share"] != SHARES[-1] or row["routing"] == "skew 1.5":
            continue
        for policy, dashed in (("store", False), ("belady", True)):
            one = row["sequences"]["1"][f"{policy}_bound"]
            points = [(float(n), found[f"{policy}_bound"] / one)
                      for n, found in row["sequences"].items()]  # fmt: skip
            lines.append(Line(f"{row['routing']}{': optimum' if dashed else ''}", points, dashed))
    write_svg(path, svg("Most that stepping together can give, a quarter in memory",
                        "sequences", "tokens/s, times one sequence's", lines))  # fmt: skip


def main() -> None:
    """Studies every routing, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="also a checkpoint that synth wrote")
    parser.add_argument("--memory", default="7GB", help="budget while its routing is recorded")
    parser.add_argument("--disk", type=float, help="W in bytes/s, where there is no checkpoint")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    if not options.folder and not options.disk:
        parser.error("expected --folder, whose disk is measured, or --disk")
    shape = shape_of(on_paper(SHAPE, LAYERS)[0])
    memory_rate = max(probe.memory(2) for _ in range(3))
    disk = options.disk
    if not disk:
        file = next(options.folder.glob("*.safetensors"))
        disk = max(disk_rates(file, shape.expert_bytes).values())
    rows = []
    if options.folder:
        own = shape_of(open_checkpoint(options.folder))
        synth = json.loads((options.folder / "synth.json").read_text())
        traces = recorded(options.folder, options.memory)
        rows += study(f"recorded, skew {synth['skew']:g}", traces, own, memory_rate, disk)
    for skew in SKEWS:
        made = eviction.skewed(11, WARM_UP + STEPS, LAYERS, shape.n_experts, shape.top_k, skew)
        rows += study(f"skew {skew:g}", list(islice(made, SEQUENCES[-1])), shape, memory_rate, disk)
    experts = read_trace(DEMO).experts
    demo = experts_only(shape_of(open_checkpoint(hub.resolve(None))))
    texts = list(experts.reshape(-1, DEMO_WINDOW, *experts.shape[1:])[: SEQUENCES[-1]])
    rows += study("demo model, its texts", texts, demo, memory_rate, disk)
    result = {
        "machine": machine(), "memory_bytes_per_second": memory_rate,
        "disk_bytes_per_second": disk, "shape": asdict(shape), "rows": rows,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
