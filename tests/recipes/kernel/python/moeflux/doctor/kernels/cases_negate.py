"""Dispatches of negate_f32."""

from __future__ import annotations

from .case import Case, Family, Generator, Out, Shape, decode, floats


def negate(rng: Generator, shape: Shape) -> Case:
    (n,) = shape
    x = floats(rng, n)
    return Case("negate_f32", [x, Out(-decode(x)), n], n + 37, 64, text=f"n={n}")


def draw(rng: Generator) -> Shape:
    return (int(rng.integers(1, 3000)),)


KERNELS: dict[str, Family] = {"negate_f32": Family(negate, [(1,), (33,), (1000,)], draw)}
