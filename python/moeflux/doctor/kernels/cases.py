"""All kernels: how to make a case, the shapes to try always, and a way to draw more."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from . import cases_attention, cases_delta_net, cases_elementwise, cases_matvec, cases_norm
from .case import Case, Family, Shape

KERNELS: dict[str, Family] = {  # the 27 of the contract
    **cases_attention.KERNELS,
    **cases_delta_net.KERNELS,
    **cases_elementwise.KERNELS,
    **cases_matvec.KERNELS,
    **cases_norm.KERNELS,
}


def listed(kernels: Mapping[str, Family] = KERNELS) -> list[tuple[str, Shape]]:
    """(kernel, shape) of every shape that is tried always."""
    return [(name, shape) for name, family in kernels.items() for shape in family.shapes]


def make(name: str, shape: Shape, kernels: Mapping[str, Family] = KERNELS) -> Case:
    """The case of a listed shape: the same one each time."""
    seed = zlib.crc32(f"{name}{shape}".encode())
    return kernels[name].build(np.random.default_rng(seed), shape)


def draw(name: str, seed: int, kernels: Mapping[str, Family] = KERNELS) -> Case:
    """A case of a drawn shape, the same one for a seed."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return kernels[name].build(rng, kernels[name].draw(rng))
