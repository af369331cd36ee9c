"""Which share of experts a cache finds in memory, for routing of a known kind. Pure functions.

Knows no model: shares, counts, and how unequal experts are. A recorded trace knows better; before
there is one, uniform routing is the floor and skewed routing (synth/router.py) an example.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=16)
def popularity(n_experts: int, top_k: int, skew: float) -> tuple[float, ...]:
    """Chance that a token uses the expert of each rank, most popular first; they add up to top_k.

    By simulation (4096 tokens, fixed seed) of Gaussian logits. Real layers come close: their
    residual is not exactly of rms 1, so that deeper layers are a little less skewed.
    """
    if not skew:
        return (top_k / n_experts,) * n_experts
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((4096, n_experts))
    logits = noise - skew * np.log(np.arange(1, n_experts + 1))
    chosen = np.argpartition(-logits, top_k - 1, axis=1)[:, :top_k]
    counts = np.bincount(chosen.ravel(), minlength=n_experts)
    return tuple(float(count) for count in np.sort(counts)[::-1] / len(noise))


def hit_rate(share: float, n_experts: int, top_k: int, skew: float = 0.0) -> float:
    """Hit rate of a cache by recency that holds `share` of all experts, tokens independent.

    Che's approximation: an expert stays for T tokens, T such that the expected number of experts
    used within T tokens fills the cache. Below one token's experts T is less than a token, and
    nothing is reused.
    """
    chances = np.array(popularity(n_experts, top_k, skew))
    if share >= 1:
        return 1.0
    if share * n_experts < top_k:
        return 0.0

    def held(tokens: float) -> float:
        return float((1 - (1 - chances) ** tokens).sum())

    low, high = 1.0, 2.0
    while held(high) < share * n_experts and high < 1e9:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) < share * n_experts else (low, middle)
    value = float((chances * (1 - (1 - chances) ** low)).sum()) / top_k
    return min(max(value, 0.0), 1.0)
