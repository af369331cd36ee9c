"""Random weights at disk speed: 4-bit groups cut out of one pool, 8-bit gates, small vectors.

A *group* is 64 codes and their scale, bias = -8 * scale, so that a value is (code - 8) * scale: the
form of MLX affine q4 and of two GGUF Q4_0 blocks at once. The pool holds N_GROUPS random groups, a
prime number; slice number i of the model (a matrix, or a matrix of one expert) reads on from group
i * STRIDE mod N_GROUPS, round and round. So no two slices begin alike (experts differ), rows of one
matrix differ (a prime is no multiple of a row), and writing is copying.

Signs of scales are random: a code's mean is -0.5, and with one sign all rows would share that
offset, which deep models add up until every token looks the same.

What keeps activations finite and decisive: unit-gain projections, small gains for what is added to
the residual. Its first 64 channels are CONSTANT for every token (the embedding sets them, nothing
adds to them): through them a router, which has no bias of its own, gets one (router.py). Norms in
front of mixers and of the head hide them, or tokens would share what attention makes of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .shapes import GROUP

Array = npt.NDArray[Any]

N_GROUPS = 1048573  # the largest prime below 2^20: 34 MB of codes
STRIDE = 648061  # about N_GROUPS / golden ratio: neighbouring slices begin far apart
CODE_RMS = math.sqrt(21.5)  # of (code - 8) with codes uniform in 0..15
GATE_RMS = math.sqrt(5461.5)  # of (code - 128) with codes uniform in 0..255
CONSTANT = 1.0  # the constant channels of the residual, before the first norm
CONSTANT_CODES = 0x99  # two codes of 9 at a scale of CONSTANT
EXPERT_GAIN = 0.5  # of what experts add: the residual grows little over 100 layers
MIXER_GAIN = 0.125  # of what mixers add: neighbours share much of it and are not to grow alike
HEAD_GAIN = 2.0  # of logits
CHUNK_GROUPS = 1 << 18  # 8 MB of codes at a time


def _words(seed: int, name: str, count: int) -> npt.NDArray[np.uint64]:
    """Uniform 64-bit words for (seed, name): raw Philox, a stream that numpy guarantees."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    return np.random.Philox(key=key).random_raw(count)


def uniform(seed: int, name: str, count: int, low: float, high: float) -> Array:
    """Floats in [low, high) that depend on (seed, name) alone."""
    steps = _words(seed, name, count) >> np.uint64(40)
    return steps.astype(np.float64) * (2.0**-24 * (high - low)) + low


def to_bf16(values: Array) -> npt.NDArray[np.uint16]:
    """Bit patterns of the nearest bf16 (ties to even)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)


def from_bf16(bits: Array) -> npt.NDArray[np.float32]:
    """The float32 values of bf16 bit patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Pool:
    """The groups that every 4-bit matrix of a model is cut from, a row of each array a group."""

    def __init__(self, seed: int) -> None:
        codes = _words(seed, "codes", N_GROUPS * GROUP // 16).view(np.uint8)
        self.codes = codes.reshape(N_GROUPS, GROUP // 2)  # two codes a byte, low nibble first
        draws = _words(seed, "scales", N_GROUPS)
        # A sign and a magnitude of about 1 in 8 bits, so that a bf16 can hold it.
        magnitude = (96 + (draws & np.uint64(63)).astype(np.float32)) / np.float32(128)
        self._unit_scales = np.where(draws >> np.uint64(63), magnitude, -magnitude)
        self._scales: dict[float, npt.NDArray[np.float32]] = {}

    def scales(self, scale: float) -> npt.NDArray[np.float32]:
        """(N_GROUPS,) scales about `scale`, exact in bf16."""
        if scale not in self._scales:
            self._scales[scale] = from_bf16(to_bf16(self._unit_scales * np.float32(scale)))
        return self._scales[scale]


@dataclass(frozen=True)
class Matrix:
    """A 4-bit tensor [out, columns], or a stack [experts, out, columns] where experts > 0.

    Attributes:
        first_slice: number of its first slice; a stack has a slice for each expert.
        gain: rms of an output for inputs of rms 1.
        constant: what the first group of every row is (of an embedding); 0 for no such group.
        silent_rows: the first group of rows is zero (what is added to the residual).
    """

    name: str
    experts: int
    out: int
    columns: int
    first_slice: int
    gain: float = 1.0
    constant: float = 0.0
    silent_rows: bool = False

    @property
    def lead(self) -> tuple[int, ...]:
        """Shape without the columns."""
        return (self.experts, self.out) if self.experts else (self.out,)

    @property
    def n_slices(self) -> int:
        """One, or one for each expert."""
        return max(self.experts, 1)

    @property
    def n_groups(self) -> int:
        """Groups of the whole tensor."""
        return self.n_slices * self.out * self.columns // GROUP

    @cached_property
    def scale(self) -> float:
        """What unit scales are multiplied with."""
        if self.constant:
            return self.gain / CODE_RMS
        return self.gain / (CODE_RMS * math.sqrt(self.columns))

    def read(self, source: Array, constant: int, silence: bool) -> Iterator[Array]:
        """The matrix' groups of a pool's array in order, some megabytes at a time, whole rows.

        Args:
            source: (N_GROUPS, ...), of any type.
            constant: what stands for the constant groups of an embedding.
            silence: whether silent rows are to be zero (true for scales, not for codes).
        """
        row = self.columns // GROUP
        rows_at_once = max(CHUNK_GROUPS // row, 1)
        for index in range(self.first_slice, self.first_slice + self.n_slices):
            for first in range(0, self.out, rows_at_once):
                n_rows = min(rows_at_once, self.out - first)
                piece = _cut(source, (index * STRIDE + first * row) % N_GROUPS, n_rows * row)
                if self.constant:
                    piece[::row] = constant
                if silence and self.silent_rows and first < GROUP:
                    piece[: (GROUP - first) * row] = 0
                yield piece


def _cut(pool: Array, begin: int, count: int) -> Array:
    """A copy of `count` entries from `begin` on, round and round."""
    out = np.empty((count, *pool.shape[1:]), pool.dtype)
    done = 0
    while done < count:
        n = min(count - done, N_GROUPS - begin)
        out[done : done + n] = pool[begin : begin + n]
        done, begin = done + n, 0
    return out


@dataclass(frozen=True)
class Gate:
    """An 8-bit matrix [out, columns] (router, shared-expert gate), as mlx-lm keeps them.

    Values are (code - 128) * scale, the first group of row r the constant `biases[r] / 64`: with
    CONSTANT channels of 1 it adds biases[r], over the residual's rms, to output r.
    """

    name: str
    columns: int
    biases: tuple[float, ...]
    gain: float = 1.0

    @property
    def out(self) -> int:
        """Rows."""
        return len(self.biases)

    def parts(self, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Codes (out, columns) and scales (out, columns / 64), exact in bf16; bias -128 * scale."""
        n_groups = self.columns // GROUP
        codes = _words(seed, self.name, self.out * self.columns // 8).view(np.uint8)
        codes = codes.reshape(self.out, self.columns).copy()
        codes[:, :GROUP] = 129  # one scale above zero
        scales = np.full((self.out, n_groups), self.gain / (GATE_RMS * math.sqrt(self.columns)))
        scales[:, 0] = np.array(self.biases) / (GROUP * CONSTANT)
        return codes, from_bf16(to_bf16(scales))


@dataclass(frozen=True)
class PlainGate(Gate):
    """The same as bf16, where mlx-lm does not quantise it."""

    def values(self, seed: int) -> npt.NDArray[np.float32]:
        """Float32 values (out, columns) that bf16 holds exactly."""
        codes, scales = self.parts(seed)
        centred = codes.astype(np.float32) - np.float32(128)
        values = centred.reshape(*scales.shape, GROUP) * scales[..., None]
        return from_bf16(to_bf16(values.reshape(codes.shape)))


@dataclass(frozen=True)
class Vector:
    """A small tensor of uniform values; f32 if `plain`, else bf16.

    `constant`: what its rows begin with, in front of the residual's constant channels; None for no
    such tensor.
    """

    name: str
    shape: tuple[int, ...]
    low: float
    high: float
    plain: bool = False
    constant: float | None = None

    def values(self, seed: int) -> npt.NDArray[np.float32]:
        """Float32 values that the stored type holds exactly."""
        values = uniform(seed, self.name, math.prod(self.shape), self.low, self.high)
        values = values.astype(np.float32)
        if self.constant is not None:
            values.reshape(self.shape)[..., :GROUP] = self.constant
        return (values if self.plain else from_bf16(to_bf16(values))).reshape(self.shape)


Item = Matrix | Gate | Vector
