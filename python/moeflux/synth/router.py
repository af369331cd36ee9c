"""Skewed routing: how often each expert is chosen, made on purpose and reproducible.

Router logits of a token are noise of variance 1 (unit-gain weights) plus a bias of the expert,
`-skew * ln(rank)`, ranks permuted anew in every layer. Skew 0 is uniform: with few tokens' experts
in memory nothing is reused. Skew 1 follows Zipf's law as far as top-K selection lets it.
Routing has no memory of the last token beyond that: real text repeats experts more. What hit rates
come of it: hit_rate.py.
"""

from __future__ import annotations

import numpy as np

from .weights import uniform


def biases(seed: int, layer: int, n_experts: int, skew: float) -> tuple[float, ...]:
    """What the router of a layer adds to each expert's logit."""
    if not skew:
        return (0.0,) * n_experts
    ranks = np.argsort(np.argsort(uniform(seed, f"ranks/{layer}", n_experts, 0, 1))) + 1
    return tuple(float(value) for value in -skew * np.log(ranks))
