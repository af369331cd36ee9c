"""All kernels: how to make a case, the shapes to try always, and a way to draw more."""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from pathlib import Path

import numpy as np

from .case import Case, Family, Shape

KERNELS: dict[str, Family] = {}  # of the cases_*.py beside this file
for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _module.name.startswith("cases_"):
        KERNELS |= importlib.import_module(f"{__package__}.{_module.name}").KERNELS


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
