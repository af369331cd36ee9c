"""All kernels: how to make a case, the shapes to try always, and a way to draw more."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from . import (
    cases_attention,
    cases_delta_net,
    cases_elementwise,
    cases_linear,
    cases_matvec,
    cases_norm,
    cases_rows,
    cases_sequence,
)
from .case import Case


class Family(NamedTuple):
    build: Callable[[np.random.Generator, tuple], Case]
    shapes: Sequence[tuple]
    draw: Callable[[np.random.Generator], tuple]


KERNELS: dict[str, Family] = {
    name: Family(*entry)
    for module in (
        cases_attention,
        cases_delta_net,
        cases_elementwise,
        cases_linear,
        cases_matvec,
        cases_norm,
        cases_rows,
        cases_sequence,
    )
    for name, entry in sorted(module.KERNELS.items())
}


def listed() -> list[tuple[str, tuple]]:
    """(kernel, shape) of every shape that is tried always."""
    return [(name, shape) for name, family in KERNELS.items() for shape in family.shapes]


def make(name: str, shape: tuple) -> Case:
    """The case of a listed shape: the same one each time."""
    seed = zlib.crc32(f"{name}{shape}".encode())
    return KERNELS[name].build(np.random.default_rng(seed), shape)


def draw(name: str, seed: int) -> Case:
    """A case of a drawn shape, the same one for a seed."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return KERNELS[name].build(rng, KERNELS[name].draw(rng))
