"""One dispatch of one kernel, with what must be in its buffers afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Generator = np.random.Generator
Shape = tuple[int, ...]  # what a family's cases depend on; each says what it holds

# |got - expected| <= TOLERANCE[dtype] * size, where size is the sum of the magnitudes that went
# into an element (a case may know it), else the element itself. f32: some 30 roundings; the 16-bit
# types: two roundings of the result.
TOLERANCE = {
    np.dtype(np.float32): 2e-6,
    np.dtype(np.float16): 2.0**-10,
    np.dtype(np.uint16): 2.0**-7,  # bf16
}
TINY = 1e-37  # GPUs may flush what is smaller (the least normal f32 is 1.2e-38)

PAD = 5  # elements behind each output, which no kernel may write


def bf16(values: Array) -> Array:
    """Rounds to the nearest bf16, ties to even; its bit pattern, uint16."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode(array: Array) -> Array:
    """float64 values of f32, f16 or bf16 (uint16) elements."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def floats(rng: Generator, *shape: int, size: float = 1.0) -> Array:
    """Normally distributed float32 of standard deviation `size`."""
    return (rng.standard_normal(shape) * size).astype(np.float32)


@dataclass
class Out:
    """An argument that the kernel writes.

    `expected` is float64; NaN there means: not to be touched. `before` is what the buffer holds at
    first, where the kernel reads it too; otherwise it is filled with NaN.
    """

    expected: Array
    size: Array | None = None
    before: Array | None = None
    dtype: Any = np.float32

    def initial(self) -> Array:
        """Contents of the buffer before the kernel runs."""
        if self.before is not None:
            return self.before
        return np.full(self.expected.shape, unwritten(self.dtype), self.dtype)


@dataclass
class Case:
    """`args` in binding order: inputs as arrays, scalars as numbers, None, or `Out`.

    A list of arrays is a list of buffers that the kernel reaches by address.
    """

    kernel: str
    args: list[Any]
    grid: int | None = None
    threads: int | None = None
    constants: dict[str, int] = field(default_factory=dict)
    text: str = ""

    def __str__(self) -> str:
        return f"{self.kernel} {self.text} grid={self.grid} threads={self.threads}"

    def outputs(self) -> list[tuple[int, Out]]:
        """(place, output) of those that the kernel writes."""
        return [(i, arg) for i, arg in enumerate(self.args) if isinstance(arg, Out)]


Build = Callable[[Generator, Shape], Case]


class Family(NamedTuple):
    """How the cases of one kernel are made."""

    build: Build
    shapes: Sequence[Shape]  # that are tried always
    draw: Callable[[Generator], Shape]


def judge(out: Out, got: Array) -> tuple[str, float]:
    """What is wrong with the contents of an output, "" where nothing is.

    Beside it the largest error, as a share of what is allowed.
    """
    expected = out.expected.reshape(-1)
    body, pad = got[: len(expected)], got[len(expected) :]
    untouched = np.isnan(expected)
    start = out.initial().reshape(-1)
    if not np.array_equal(bits(body[untouched]), bits(start[untouched])):
        return "wrote elements that are not its own", 0.0
    if not np.array_equal(bits(pad), bits(np.full_like(pad, unwritten(pad.dtype)))):
        return "wrote behind its output", 0.0
    if np.issubdtype(out.expected.dtype, np.integer):
        equal = np.array_equal(body, expected)
        return ("" if equal else f"expected {expected}, found {body}"), 0.0
    values = decode(body)
    size = np.abs(expected) if out.size is None else out.size.reshape(-1)
    with np.errstate(invalid="ignore"):
        error = np.where(values == expected, 0, np.abs(values - expected))  # infinities
    share = error / (TOLERANCE[got.dtype] * size + TINY)
    bad = ~untouched & ~(share <= 1)  # NaN is bad
    if not bad.any():
        return "", float(np.max(share, where=~untouched, initial=0))
    first = int(np.argmax(bad))
    missing = int(np.isnan(values[bad]).sum())
    text = (
        f"{bad.sum()} of {len(expected)} elements are wrong ({missing} NaN); [{first}]: expected "
        f"{expected[first]:.9g}, found {values[first]:.9g}, size {size[first]:.3g}"
    )
    return text, float(share[first])


def unwritten(dtype: npt.DTypeLike) -> float:
    """What outputs hold before a kernel runs: NaN, as a bf16 pattern too; of u32 an absurd id."""
    return np.nan if np.issubdtype(np.dtype(dtype), np.floating) else 0x7FFF


def bits(array: Array) -> Array:
    """The bit patterns, so that NaN equals itself."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
