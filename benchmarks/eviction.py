"""What a cache of experts misses: policies replayed over routing traces. Pure functions.

A trace is an array (steps, layers, width) of expert ids, the experts that a layer of a step uses;
-1 where there are fewer. A step asks for a layer's experts at once, those in memory first, as the
engine does. Experts of different layers are different experts.

Policies: `lru`; `store`, the rule of csrc/store/eviction.h (recency, and a frequency that halves);
`belady`, which evicts what is used furthest in the future: no policy misses less.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from moeflux import _core

Trace = NDArray[np.integer]
Requests = list[list[list[int]]]  # by step and layer: keys, each once

USE_WORTH, HALF_LIFE = _core.Eviction.RULE  # of the store, in slots


def union(traces: Sequence[Trace]) -> Trace:
    """The trace of sequences that step together: a layer uses what any of them does."""
    together = np.concatenate(traces, axis=2)
    together.sort(axis=2)
    twice = np.zeros(together.shape, bool)
    twice[..., 1:] = together[..., 1:] == together[..., :-1]
    together[twice] = -1
    return together


def requests(trace: Trace, n_experts: int) -> Requests:
    """Keys (layer * n_experts + expert) by step and layer."""
    return [
        [[layer * n_experts + int(e) for e in experts if e >= 0]
         for layer, experts in enumerate(step)]
        for step in trace
    ]  # fmt: skip


def _hits_first(step: Sequence[Sequence[int]], held: Callable[[int], bool]) -> Iterator[int]:
    for experts in step:
        found = [key for key in experts if held(key)]
        yield from found
        yield from (key for key in experts if key not in found)


def lru(asked: Requests, slots: int) -> list[int]:
    """Misses of each step when the least recently used expert goes."""
    held: OrderedDict[int, None] = OrderedDict()
    misses = []
    for step in asked:
        count = 0
        for key in _hits_first(step, held.__contains__):
            if key in held:
                held.move_to_end(key)
                continue
            count += 1
            if len(held) >= slots:
                held.popitem(last=False)
            held[key] = None
        misses.append(count)
    return misses


def store(
    asked: Requests, slots: int, use_worth: float = USE_WORTH, half_life: float = HALF_LIFE
) -> list[int]:
    """Misses of each step under the store's rule."""
    n_keys = 1 + max((key for step in asked for experts in step for key in experts), default=0)
    order = _core.Eviction(n_keys, use_worth, half_life)
    held: set[int | None] = set()
    misses = []
    for step in asked:
        count = 0
        for key in _hits_first(step, held.__contains__):
            if key in held:
                order.unpark(key)
            else:
                count += 1
                if len(held) >= slots:
                    held.remove(order.evict())
                held.add(key)
            order.touch(key, len(held))
            order.park(key)
        misses.append(count)
    return misses


def belady(asked: Requests, slots: int) -> list[int]:
    """Misses of each step when the future is known: the least that any policy has.

    An expert whose next use is further off than that of all others held is read and not kept.
    """
    never = len(asked)
    upcoming: dict[int, int] = {}
    next_use: list[dict[int, int]] = [{}] * len(asked)
    for at in range(len(asked) - 1, -1, -1):
        keys = [key for experts in asked[at] for key in experts]
        next_use[at] = {key: upcoming.get(key, never) for key in keys}
        upcoming.update(dict.fromkeys(keys, at))
    held: dict[int, tuple[int, int]] = {}  # next use: (step, layer's place within it)
    order: list[tuple[tuple[int, int], int]] = []  # by furthest use; stale entries are skipped
    misses = []
    for at, step in enumerate(asked):
        count = 0
        for key in _hits_first(step, held.__contains__):
            use = (-next_use[at][key], -key)  # keys ascend with layers: a later layer is further
            if key in held:
                held[key] = use
                heapq.heappush(order, (use, key))
                continue
            count += 1
            held[key] = use
            heapq.heappush(order, (use, key))
            while len(held) > slots:
                value, furthest = heapq.heappop(order)
                if held.get(furthest) == value:
                    del held[furthest]
        misses.append(count)
    return misses


POLICIES: dict[str, Callable[[Requests, int], list[int]]] = {
    "lru": lru, "store": store, "belady": belady,
}  # fmt: skip


def skewed(
    seed: int, steps: int, layers: int, n_experts: int, top_k: int, skew: float
) -> Iterator[Trace]:
    """Endless sequences of one model whose router prefers experts as moeflux.synth's does.

    Logits are Gaussian of variance 1 and fall with skew * ln(rank), ranks by layer.
    """
    numbers = np.random.Generator(np.random.PCG64(seed))
    ranks = np.stack([numbers.permutation(n_experts) + 1 for _ in range(layers)])
    while True:
        logits = numbers.standard_normal((steps, layers, n_experts)) - skew * np.log(ranks)
        yield np.argpartition(-logits, top_k - 1, axis=2)[..., :top_k]
