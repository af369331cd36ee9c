"""Hit rates that were measured on real checkpoints, over the share of experts in memory.

From the data of boyle 0.2.1 (Apache-2.0): decode, a cache by recency for each layer, one trace from
cold. A pool that all layers share holds less than a token's experts where these still hit: what
uses a curve cuts it there. Knows no engine and no checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SOURCE = "boyle 0.2.1"
_SHARES = (0.05, 0.08, 0.12, 0.16, 0.20, 0.25, 0.30, 0.36, 0.45, 0.55, 0.64, 0.75)
# How many times more or fewer experts than what was measured a model may have: of its family, of
# another.
_OWN_REACH, _REACH = 2.0, 1.5


@dataclass(frozen=True)
class Curve:
    """Hit rates of a model.

    Attributes:
        model: that was measured, or those that this lies between.
        n_experts: of a layer.
        top_k: of them that a token uses.
        points: (share of experts in memory, hit rate), ascending.
    """

    model: str
    n_experts: int
    top_k: int
    points: tuple[tuple[float, float], ...]

    def hit_rate(self, share: float) -> float:
        """Linear between the points, from nothing at 0 to everything at 1."""
        low, low_rate = 0.0, 0.0
        for high, high_rate in (*self.points, (1.0, 1.0)):
            if share <= high:
                return low_rate + (high_rate - low_rate) * (share - low) / (high - low)
            low, low_rate = high, high_rate
        return 1.0


def _measured(model: str, n_experts: int, top_k: int, *rates: float) -> Curve:
    return Curve(model, n_experts, top_k, tuple(zip(_SHARES, rates, strict=True)))


# By family. Those of `gemma4` were measured at fewer shares.
CURVES = {
    "qwen3_moe": _measured(
        "Qwen3-235B", 128, 8,
        .339, .466, .580, .666, .743, .800, .843, .886, .933, .961, .973, .978),
    "qwen3_5_moe": _measured(
        "Qwen3.5-397B", 512, 10,
        .415, .500, .582, .651, .703, .755, .795, .828, .861, .882, .892, .894),
    "qwen4_exp": _measured(
        "Qwen3.8-Flash-Next", 512, 10,
        .559, .654, .737, .797, .838, .874, .899, .918, .935, .943, .946, .947),
    "glm_moe_dsa": _measured(
        "GLM-5.2", 256, 8,
        .303, .417, .501, .560, .610, .667, .713, .761, .822, .874, .902, .918),
    "gemma4": Curve("gemma-4-26B-A4B", 128, 8, ((.12, .532), (.25, .761), (.5, .882), (.75, .930))),
}  # fmt: skip
# What a model of another family is taken for, by its number of experts; of two that have as many
# the one that most people run, or the worse.
_NEIGHBOURS = ("qwen3_moe", "glm_moe_dsa", "qwen3_5_moe")


def find(family: str, n_experts: int) -> Curve | None:
    """The curve of a family; of another, one between those of models with fewer and more experts.

    Args:
        family: a config's `model_type`.
        n_experts: of a layer.

    Returns:
        None where nothing near was measured.
    """
    own = CURVES.get(family.removesuffix("_text"))
    if own is not None and 1 / _OWN_REACH <= n_experts / own.n_experts <= _OWN_REACH:
        return own
    known = [CURVES[name] for name in _NEIGHBOURS]
    if not known[0].n_experts / _REACH <= n_experts <= known[-1].n_experts * _REACH:
        return None
    at = min(max(n_experts, known[0].n_experts), known[-1].n_experts)
    high = next(curve for curve in known if curve.n_experts >= at)
    if high.n_experts == at:
        return high
    low = known[known.index(high) - 1]
    part = math.log(at / low.n_experts) / math.log(high.n_experts / low.n_experts)
    points = tuple((share, (1 - part) * low.hit_rate(share) + part * high.hit_rate(share))
                   for share in _SHARES)  # fmt: skip
    return Curve(f"{low.model} and {high.model}", n_experts, low.top_k, points)


def describe(curve: Curve, family: str) -> str:
    """The line that a plan says of the curve that it used."""
    is_own = CURVES.get(family.removesuffix("_text")) is curve
    what = "of its family" if is_own else "of the nearest number of experts"
    between = " and " in curve.model
    where = f"between {curve.model}" if between else (
        f"{curve.model}, {curve.n_experts} experts, {curve.top_k} a token")  # fmt: skip
    return f"measured ({SOURCE}) {what}: {where}"
