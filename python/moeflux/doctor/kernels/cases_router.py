"""Dispatches of the router: a softmax alone, and all steps that a router may have."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .case import Array, Case, Family, Generator, Out, Shape, decode, floats
from .oracles import Steps

# (rows, experts, top_k)
SHAPES = [(1, 128, 8), (3, 16, 1), (2, 1, 1), (4, 512, 10), (2, 33, 33), (1, 1000, 16), (5, 60, 4),
          (2, 256, 8), (1, 96, 6), (3, 512, 8), (2, 384, 6)]  # fmt: skip
GROUPS = (1, 2, 3, 4, 8, 32)
CLOSE = 4e-6  # of float32 scores: two that differ less may be one, and two that are one differ


def draw(rng: Generator) -> Shape:
    experts = int(rng.integers(1, 200)) if rng.random() < 0.5 else 16 * int(rng.integers(1, 33))
    return int(rng.integers(1, 4)), experts, int(rng.integers(1, min(experts, 20) + 1))


class Routed(NamedTuple):
    """What a router is given and gives: rows of logits, bias and factors of experts, or None."""

    logits: Array
    bias: Array | None
    factors: Array | None
    experts: Out
    weights: Out
    numbers: list[Any]  # n_experts to factor, as the kernels take them
    constants: dict[str, int]


def routed(rng: Generator, shape: Shape) -> Routed:
    """The logits have few different values, so that many are equal; some rows are all equal."""
    n, n_experts, top_k = shape
    while True:
        logits = floats(rng, n, n_experts, size=float(rng.choice([1, 3])))
        steps = _steps(rng, n_experts, top_k)
        every = steps is not None
        steps = steps or Steps(top_k, normalise=bool(rng.integers(0, 2)))
        if not every and rng.random() < 0.3:
            logits *= 30
        ranked = steps.bias is not None or steps.n_groups > 1
        if ranked or rng.random() < 0.5:
            logits = np.clip(np.round(logits * float(rng.choice([0, 1, 4]))), -8, 8) / np.float32(2)
        if not ranked or all(_is_clear(steps, row) for row in decode(logits)):
            break
    rows = [steps.route(row) for row in decode(logits)]
    ids, weights = (np.stack(part) for part in zip(*rows, strict=True))
    size = np.abs(weights) * (1 + np.abs(logits).max())  # the argument of exp is rounded
    numbers = [n_experts, top_k, int(steps.normalise), int(steps.sigmoid), steps.n_groups,
               steps.top_groups, int(steps.bias is not None), int(steps.factors is not None),
               steps.sum_eps, steps.factor]  # fmt: skip
    return Routed(
        logits,
        None if steps.bias is None else steps.bias.astype(np.float32),
        None if steps.factors is None else steps.factors.astype(np.float32),
        Out(ids.astype(np.uint32), dtype=np.uint32),
        Out(weights, size),
        numbers,
        {"AllSteps": 1} if every else {},
    )


def _steps(rng: Generator, n_experts: int, top_k: int) -> Steps | None:
    """All of a router's, each of them there or not; None: a softmax alone."""
    if rng.random() < 0.3:
        return None
    groups = [g for g in GROUPS if n_experts % g == 0 and (g == 1 or n_experts // g >= 2)]
    n_groups = int(rng.choice(groups))
    least = -(-top_k // (n_experts // n_groups))
    bias = np.round(rng.standard_normal(n_experts) * 2) / 8
    return Steps(
        top_k,
        sigmoid=bool(rng.random() < 0.7),
        bias=bias if rng.random() < 0.7 else None,
        n_groups=n_groups,
        top_groups=int(rng.integers(least, max(n_groups, least + 1))),
        normalise=bool(rng.integers(0, 2)),
        sum_eps=float(np.float32(rng.choice([0, 1e-20, 0.25]))),
        factor=float(rng.choice([1, 2.5])),
        factors=decode(floats(rng, n_experts)) if rng.random() < 0.4 else None,
    )


def _is_clear(steps: Steps, logits: Array) -> bool:
    """Whether what is chosen by is the same or well apart, so that float32 orders it so, too."""
    ranks = steps.ranks(logits)[1]
    best = np.sort(ranks, axis=1)[:, -2:]
    # Of groups whose best experts differ sums must do so, too.
    worths = np.unique(best, axis=0).sum(axis=1) if steps.n_groups > 1 else np.zeros(0)
    return all(np.all(np.diff(np.sort(values)) > CLOSE) for values in (np.unique(ranks), worths))


def router_top_k_f32(rng: Generator, shape: Shape) -> Case:
    r = routed(rng, shape)
    args = [r.logits, r.bias, r.factors, r.experts, r.weights, shape[0], *r.numbers]
    text = f"{shape} {r.constants} {r.numbers[2:]}"
    return Case("router_top_k_f32", args, 32 * shape[0], 32, r.constants, text)


KERNELS: dict[str, Family] = {"router_top_k_f32": Family(router_top_k_f32, SHAPES, draw)}
