"""Dispatches that take a device through layers whose experts are in memory."""

from __future__ import annotations

import numpy as np

from .case import Case, Family, Generator, Out, Shape, decode, floats
from .cases_elementwise import geometry
from .cases_experts import ABSENT, UNIT
from .cases_router import draw, routed

WORDS = 16  # of a slot here
FINDS = [(1, 1, 1), (8, 3, 64), (128, 8, 2048), (33, 33, 33), (512, 10, 300)]  # experts, top_k, dim
RESUMES = [(1,), (33,), (2048,)]


def draw_find(rng: Generator) -> Shape:
    return *draw(rng)[1:], int(rng.integers(1, 600))


def words(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(values, np.uint32)


def find_experts(rng: Generator, shape: Shape) -> Case:
    """All there; one absent, beyond its slab, or of no slab; or stopped before."""
    n_experts, top_k, dim = shape
    units = int(rng.integers(1, 5))
    last = (units - 1) * UNIT + 4 * WORDS  # bytes: the last slot ends with its slab
    slabs = [rng.integers(0, 256, last, dtype=np.uint8).view(np.uint32) for _ in range(3)]
    table = (rng.integers(0, 3, n_experts) << 14 | rng.integers(0, units, n_experts)).astype(
        np.uint32
    )
    router = routed(rng, (1, n_experts, top_k))
    chosen = router.experts.expected[0].astype(np.uint32)
    others = np.setdiff1d(np.arange(n_experts), chosen)
    table[others[rng.random(len(others)) < 0.5]] = ABSENT  # which nobody asks for
    what = str(rng.choice(["all", "all", "absent", "past", "no slab", "stopped"]))
    one = int(rng.integers(0, top_k))
    if what not in ("all", "stopped"):
        table[chosen[one]] = {"absent": ABSENT, "past": units, "no slab": 3 << 14}[what]
    found = what == "all"
    x, note = floats(rng, dim), np.append(chosen, found).astype(np.uint32)
    saved, old_note = decode(x), rng.integers(0, 99, top_k + 1).astype(np.uint32)
    if what == "stopped":
        saved, note = np.full(dim, np.nan), old_note
    stopped = int(rng.integers(1, 3)) if what == "stopped" else 0
    places = table[chosen] if found else np.full(top_k, ABSENT, np.uint32)
    args = [
        slabs,
        router.logits,
        router.bias,
        router.factors,
        table,
        x,
        router.experts,
        router.weights,
        Out(words(stopped or int(not found)), before=words(stopped), dtype=np.uint32),
        Out(places, dtype=np.uint32),
        Out(note, before=old_note, dtype=np.uint32),
        Out(saved),
        *[*router.numbers, dim, len(slabs), WORDS],
    ]
    threads = int(rng.choice([32, 64, 256, 1024]))
    text = f"{shape} {router.constants} {what}"
    return Case("find_experts", args, threads, threads, router.constants, text)


def resume_layer(rng: Generator, shape: Shape) -> Case:
    (dim,) = shape
    saved = floats(rng, dim)
    stopped = Out(words(0), before=words(int(rng.integers(0, 3))), dtype=np.uint32)
    args = [saved, Out(decode(saved)), stopped, dim]
    return Case("resume_layer", args, *geometry(rng, dim), text=f"{shape}")


KERNELS: dict[str, Family] = {
    "find_experts": Family(find_experts, FINDS, draw_find),
    "resume_layer": Family(resume_layer, RESUMES, lambda rng: (int(rng.integers(1, 999)),)),
}
