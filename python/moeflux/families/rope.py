"""Rotary frequencies, plain, proportional and YaRN. Source: transformers' modeling_rope_utils.

Both config dialects are read: `rope_theta` with `rope_scaling`, and `rope_parameters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import show
from .config import MAX_COUNT, Config

# Settings that each kind has; the sections of mrope differ for images only.
_PLAIN = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section",
          "mrope_interleaved"}  # fmt: skip
_SETTINGS = {
    "default": _PLAIN,
    "proportional": _PLAIN,
    "yarn": _PLAIN | {"factor", "original_max_position_embeddings", "attention_factor",
                      "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
}  # fmt: skip
# Far beyond real settings, and with them all angles and factors are finite in float32.
_MIN_THETA = {"default": 1e-30, "proportional": 1e-30, "yarn": 2.0}  # YaRN divides by its logarithm
_MAX_FACTOR, _MAX_SCALE = 1e6, 1e3
_BETA = (1e-6, 1e6)


@dataclass(frozen=True)
class Rope:
    """What rotates queries and keys.

    Attributes:
        head_dim: channels of a head.
        rotary_dim: those of them that are rotated.
        inv_freq: (rotary_dim / 2) radians a position.
        scale: multiplies cos and sin.
        positions: tokens of a text that the model was made for; 0 when the config does not say.
    """

    head_dim: int
    rotary_dim: int
    inv_freq: list[float]
    scale: float
    positions: int


def rope(
    config: Config, head_dim: int, fraction: float, least: float = 0.0, own: tuple[str, ...] = ()
) -> Rope:
    """The rotation that a config asks for.

    Args:
        config: of the family.
        head_dim: channels of a head.
        fraction: `partial_rotary_factor` of a config that does not give it.
        least: the smallest one that the family has.
        own: settings that the family reads itself.
    """
    settings = config.rotation
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(kind, str) or kind not in _SETTINGS:
        raise config.bad(f"expected rope type {' or '.join(_SETTINGS)}, found {show(kind)}")
    for key, value in settings.items():
        if value is not None and key not in _SETTINGS[kind] | set(own):
            raise config.bad(f"expected no {show(key)} in rope settings of type {kind}, found one")

    def number(key: str, default: float, low: float, high: float) -> float:
        outer = config.number(key, default, low, high)
        return config.number(key, outer, low, high, settings)

    theta = number("rope_theta", 10000.0, _MIN_THETA[kind], 1e30)
    part = number("partial_rotary_factor", fraction, least, 1.0)
    # The proportional kind turns pairs of the whole head, the first of them; others the first part.
    rotary_dim = head_dim if kind == "proportional" else int(head_dim * part)
    if rotary_dim % 2 or not rotary_dim:
        raise config.bad(f"expected an even rotary dim, found {rotary_dim} of head_dim {head_dim}")
    positions = config.count("max_position_embeddings", 0, minimum=0)
    exponent = np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim
    inv_freq, scale = 1.0 / theta**exponent, 1.0
    if kind == "proportional":
        inv_freq[int(part * head_dim // 2) :] = 0
    if kind == "yarn":
        factor = config.number("factor", None, 1.0, _MAX_FACTOR, settings)
        key = "original_max_position_embeddings"  # that of the top level wins
        where = settings if config.values.get(key) is None else config.values
        original = config.number(key, positions or None, 1, MAX_COUNT, where)
        inv_freq = _yarn(config, settings, theta, inv_freq, factor, original)
        scale = _yarn_scale(config, settings, factor)
        positions = max(positions, int(factor * original))
    return Rope(head_dim, rotary_dim, inv_freq.astype(np.float32).tolist(), scale, positions)


def unrotated(config: Config, head_dim: int) -> Rope:
    """None, of a family that reads no setting of a plain one."""
    kind = config.rotation.get("rope_type", config.rotation.get("type", "default"))
    if kind != "default":
        raise config.bad(f"expected rope type 'default' (this family rotates nothing), found "
                         f"{show(kind)}")  # fmt: skip
    positions = config.count("max_position_embeddings", 0, minimum=0)
    return Rope(head_dim, 0, [], 1.0, positions)


def _yarn(
    config: Config, settings: dict[str, Any], theta: float, inv_freq: Any, factor: float,
    original: float,
) -> Any:  # fmt: skip
    dim = 2 * len(inv_freq)
    fast = config.number("beta_fast", 32, *_BETA, settings)
    slow = config.number("beta_slow", 1, *_BETA, settings)
    truncate = settings.get("truncate", True)
    if not isinstance(truncate, bool):
        raise config.bad(f"expected true or false for truncate, found {show(truncate)}")

    def correction(beta: float) -> float:
        return dim * math.log(original / (2 * math.pi * beta)) / (2 * math.log(theta))

    low, high = correction(fast), correction(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    return inv_freq / factor * ramp + inv_freq * (1 - ramp)


def _yarn_scale(config: Config, settings: dict[str, Any], factor: float) -> float:
    """`attention_factor`, or what its absence means."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1

    one, all_dims = (config.number(key, 0, 0, _MAX_SCALE, settings)
                     for key in ("mscale", "mscale_all_dim"))  # fmt: skip
    scale = mscale(one) / mscale(all_dims) if one and all_dims else mscale(1)
    return config.number("attention_factor", scale, 0, _MAX_SCALE, settings)
