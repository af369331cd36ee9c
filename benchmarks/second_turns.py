"""What short turns of a talk read, and what a pool remembered from the last run would save.

    python benchmarks/second_turns.py [--out benchmarks/results/second_turns.json]

Routing of the demo model on held-out text (a trained router) and of a synthetic one of
qwen3-30b-a3b's shape, skew 0.5, replayed through the store's order: a prompt, an answer, then short
turns and their answers; a half and a quarter of the experts in memory. Experts read, by ways to
serve a turn and to seed slots; nothing here is timed. Then the first tokens of a process: from an
empty pool, and from the experts that an earlier run held at its end. Last the engine itself, and a
replay of what its router chose: they should read the same experts. Some minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import eviction
import numpy as np
from demo import machine

import moeflux
from moeflux import _core
from moeflux.trace import read_trace

DEMO = Path(__file__).parent / "traces" / "demo_heldout.npz"
PROMPT, ANSWER = 256, 64  # tokens
TURNS = (8, 16, 32, 63)
SHARES = (0.5, 0.25)
Rows = eviction.Trace  # (rows, layers, top_k)
Decode = Callable[[Rows], Rows]  # of the rows of a pass those whose experts count as decode's


def none(rows: Rows) -> Rows:
    """As today: a prompt's experts are the first to go."""
    return rows[:0]


def last(n: int) -> Decode:
    """The last rows of a prompt's pass seed the slots."""
    return lambda rows: rows[-n:]


def whole(rows: Rows) -> Rows:
    """All of them do, where they are fewer than 64."""
    return rows if len(rows) < 64 else rows[:0]


@dataclass
class Pool:
    """The store: which experts are held, and what came to be read."""

    n_experts: int  # a layer
    layers: int
    slots: int
    held: set[int | None] = field(default_factory=set)
    reads: int = 0

    def __post_init__(self) -> None:
        self.order = _core.Eviction(self.n_experts * self.layers)

    def run(self, rows: Rows, decode: Rows) -> None:
        """A pass of these rows, layer by layer; `decode` are those that count as decode's."""
        for layer in range(self.layers):
            keys = [layer * self.n_experts + int(e) for e in np.unique(rows[:, layer])]
            kept = {layer * self.n_experts + int(e) for e in np.unique(decode[:, layer])}
            for key in sorted(keys, key=lambda key: key not in self.held):
                self._take(key)
                self.order.touch(key, len(self.held), key not in kept)
            for key in keys:
                self.order.park(key)

    def _take(self, key: int) -> None:
        if key in self.held:
            self.order.unpark(key)
            return
        self.reads += 1
        if len(self.held) >= self.slots:
            self.held.remove(self.order.evict())
        self.held.add(key)

    def seed(self, keys: set[int | None]) -> None:
        """Holds what an earlier run held, as a prompt that used it would leave it."""
        for key in keys:
            assert key is not None
            self.held.add(key)
            self.order.touch(key, len(self.held), True)
            self.order.park(key)


def talk(trace: Rows, turn: int) -> Iterator[tuple[str, Rows]]:
    """A prompt, then answers and turns, as far as the trace goes."""
    yield "prompt", trace[:PROMPT]
    at = PROMPT
    while at + ANSWER + turn <= len(trace):
        for i in range(ANSWER):
            yield "answers", trace[at + i : at + i + 1]
        at += ANSWER
        yield "turns", trace[at : at + turn]
        at += turn


def replay(pool: Pool, trace: Rows, turn: int, part: int, decode: Decode) -> dict[str, int]:
    """Experts read in each phase of a talk whose turns are served in parts of so many rows."""
    reads = {"prompt": 0, "turns": 0, "answers": 0}
    for phase, rows in talk(trace, turn):
        before = pool.reads
        size = part if phase == "turns" else len(rows)
        for at in range(0, len(rows), size):
            some = rows[at : at + size]
            pool.run(some, some if len(some) == 1 else decode(some))
        reads[phase] += pool.reads - before
    return reads


WAYS: dict[str, tuple[int, Decode]] = {
    "today": (PROMPT, none),
    "parts of 16": (16, none),
    "parts of 8": (8, none),
    "parts of 1": (1, none),
    "short turns as decode": (PROMPT, whole),
    "last row seeds": (PROMPT, last(1)),
    "last 4 rows seed": (PROMPT, last(4)),
    "last 16 rows seed": (PROMPT, last(16)),
    "last 64 rows seed": (PROMPT, last(64)),
}


def turns(name: str, trace: Rows, n_experts: int) -> Iterator[dict[str, Any]]:
    """A row for each share in memory, length of turns and way."""
    layers = trace.shape[1]
    for share in SHARES:
        for turn in TURNS:
            base = 0
            for way, (part, decode) in WAYS.items():
                pool = Pool(n_experts, layers, int(share * layers * n_experts))
                reads = replay(pool, trace, turn, part, decode)
                later = reads["turns"] + reads["answers"]
                base = base or later
                print(f"{name}, {share:.0%}, turns of {turn}, {way}: {reads}, "
                      f"{later / base:.3f} of today", flush=True)  # fmt: skip
                yield {"routing": name, "share": share, "turn": turn, "way": way, **reads,
                       "of_today": later / base}  # fmt: skip


def warm(name: str, trace: Rows, n_experts: int) -> Iterator[dict[str, Any]]:
    """Reads of a new process's first tokens, cold, and with the pool of the trace's first half."""
    layers, half = trace.shape[1], len(trace) // 2
    for share in SHARES:
        slots = int(share * layers * n_experts)
        before = Pool(n_experts, layers, slots)
        for row in range(half):
            before.run(trace[row : row + 1], trace[row : row + 1])
        for prompt in (0, 8, 32, PROMPT):
            found = {}
            for way in ("cold", "warm"):
                pool = Pool(n_experts, layers, slots)
                if way == "warm":
                    pool.seed(before.held)
                if prompt:
                    pool.run(trace[half : half + prompt], trace[:0])
                found[f"{way}_prompt"] = pool.reads
                for row in range(half + prompt, half + prompt + ANSWER):
                    pool.run(trace[row : row + 1], trace[row : row + 1])
                found[f"{way}_all"] = pool.reads
            saved = found["cold_all"] - found["warm_all"]
            print(f"{name}, {share:.0%}, prompt of {prompt}: {found}, {saved} saved of "
                  f"{len(before.held)} read at load", flush=True)  # fmt: skip
            yield {"routing": name, "share": share, "prompt": prompt, **found,
                   "read_at_load": len(before.held), "saved": saved}  # fmt: skip


def engine(turn: int, share: float) -> Iterator[dict[str, Any]]:
    """What the demo model read for a talk, its turns whole and in parts, beside the replay's."""
    text = (Path(__file__).parent / "data" / "heldout.txt").read_text()
    for way in ("today", "parts of 8", "parts of 1"):
        model = moeflux.load(memory="64MiB", context=2048, read_ahead=False, rows=PROMPT,
                             max_slots=int(share * 320))  # fmt: skip
        tokens = np.array(model.tokenizer.encode(text[:8000])[:1600])
        part, session = WAYS[way][0], model.session()
        chosen, found = [], {"prompt": 0, "turns": 0, "answers": 0}
        for phase, rows in talk(tokens, turn):
            size = part if phase == "turns" else len(rows)
            before = model.stats["misses"]
            for at in range(0, len(rows), size):
                step = session.step(rows[at : at + size].tolist(), capture="experts")
                chosen.append(step["experts"])
            found[phase] += model.stats["misses"] - before
        trace = np.concatenate(chosen)
        pool = Pool(40, trace.shape[1], model.stats["max_slots"])
        replayed = replay(pool, trace, turn, part, none)
        print(f"the engine, {share:.0%}, turns of {turn}, {way}: {found}, replayed {replayed}")
        yield {"share": share, "turn": turn, "way": way, **found, "replayed": replayed,
               "bytes_read": model.stats["bytes_read"]}  # fmt: skip


def main() -> None:
    """Prints a line a row, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    demo = read_trace(DEMO)
    synthetic = next(eviction.skewed(0, 1024, 16, 128, 8, 0.5))
    given = [("demo model", np.asarray(demo.experts)[:4096], demo.n_experts),
             ("synthetic, skew 0.5", synthetic, 128)]  # fmt: skip
    result = {
        "machine": machine(), "prompt": PROMPT, "answer": ANSWER,
        "turns": [row for one in given for row in turns(*one)],
        "warm": [row for one in given for row in warm(*one)],
        "engine": [row for share in SHARES for row in engine(32, share)],
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
