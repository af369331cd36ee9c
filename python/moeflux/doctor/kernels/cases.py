"""All kernels: how to make a case, the shapes to try always, and a way to draw more."""

from __future__ import annotations

import zlib

import numpy as np

from . import (
    cases_attention,
    cases_delta_net,
    cases_elementwise,
    cases_experts,
    cases_linear,
    cases_matvec,
    cases_norm,
    cases_rows,
    cases_sequence,
)
from .case import Case, Family, Shape

KERNELS: dict[str, Family] = {
    **cases_attention.KERNELS,
    **cases_delta_net.KERNELS,
    **cases_elementwise.KERNELS,
    **cases_experts.KERNELS,
    **cases_linear.KERNELS,
    **cases_matvec.KERNELS,
    **cases_norm.KERNELS,
    **cases_rows.KERNELS,
    **cases_sequence.KERNELS,
}


def listed() -> list[tuple[str, Shape]]:
    """(kernel, shape) of every shape that is tried always."""
    return [(name, shape) for name, family in KERNELS.items() for shape in family.shapes]


def make(name: str, shape: Shape) -> Case:
    """The case of a listed shape: the same one each time."""
    seed = zlib.crc32(f"{name}{shape}".encode())
    return KERNELS[name].build(np.random.default_rng(seed), shape)


def draw(name: str, seed: int) -> Case:
    """A case of a drawn shape, the same one for a seed."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return KERNELS[name].build(rng, KERNELS[name].draw(rng))
