"""Bandwidth of the matvec kernels of the contract.

A matvec moves its weights once, so weight bytes over time is the rate that counts. The weights of
consecutive dispatches lie in different buffers, as experts do, lest a cache serve them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..gpu.backend import Backend
from ..gpu.buffer import Buffer
from ..gpu.command import Argument
from ..gpu.device import KERNELS

# (out_dim, in_dim), few rows, short rows, large: gate and down projection of an expert of
# Qwen3.6-35B-A3B, and a square projection.
SHAPES = ((512, 2048), (2048, 512), (4096, 4096))
GROUP = 64
POOL_BYTES = 128 << 20  # of weights: beyond the last-level caches of Apple's chips (96 MB at most)
RUN_SECONDS = 0.02  # of GPU time a measurement: far above what starting a command buffer takes


@dataclass(frozen=True)
class MatvecRate:
    """What one kernel reached on one shape."""

    kernel: str
    bits: int
    out_dim: int
    in_dim: int
    gb_per_s: float


def candidates(backend: Backend) -> list[tuple[str, int]]:
    """(kernel, bits) of all kernels that are called as dequant_matvec_4bit is."""

    def signature(name: str) -> list[str]:
        return [binding.name for binding in KERNELS[name].bindings]

    found = []
    for bits in (2, 4, 8):
        for name in backend.kernels:
            if name.startswith(f"dequant_matvec_{bits}bit") and signature(name) == signature(
                "dequant_matvec_4bit"
            ):
                found.append((name, bits))
    return found


def measure(
    backend: Backend,
    kernel: str,
    bits: int,
    shape: tuple[int, int],
    repeats: int,
) -> MatvecRate:
    """The median rate of `repeats` command buffers of about RUN_SECONDS each."""
    out_dim, in_dim = shape
    x = Buffer.from_array(backend, np.ones(in_dim, np.float32))
    out = Buffer.zeros(backend, out_dim)
    weights = [_random_weights(backend, bits, shape)]
    weight_bytes = sum(buffer.nbytes for buffer in weights[0])

    def run(n: int) -> float:
        begin = time.perf_counter()
        with backend.commands() as commands:
            for i in range(n):
                scalars: list[Argument] = [np.uint32(v) for v in (out_dim, in_dim, GROUP)]
                commands.dispatch(kernel, [*weights[i % len(weights)], x, out, *scalars])
        return commands.gpu_seconds or time.perf_counter() - begin  # no time stamps: wall clock

    run(1)  # compiles
    n = max(1, min(1000, int(RUN_SECONDS / run(1))))
    while len(weights) < n and len(weights) * weight_bytes < POOL_BYTES:
        weights.append(_random_weights(backend, bits, shape))
    run(len(weights))  # touches each
    seconds = statistics.median(run(n) for _ in range(repeats)) / n
    return MatvecRate(kernel, bits, out_dim, in_dim, weight_bytes / seconds / 1e9)


def measure_all(backend: Backend, note: Callable[[str], None], repeats: int) -> list[MatvecRate]:
    """Every candidate on every shape; `note` hears what is being measured."""
    rates = []
    for kernel, bits in candidates(backend):
        for shape in SHAPES:
            note(f"{backend.kind}: rate of {kernel}, {shape[0]} x {shape[1]}")
            rates.append(measure(backend, kernel, bits, shape, repeats))
    return rates


def _random_weights(backend: Backend, bits: int, shape: tuple[int, int]) -> list[Buffer]:
    """W, scales, biases; any bits do, as long as no scale is a NaN."""
    out_dim, in_dim = shape
    random = np.random.default_rng(bits)
    words = random.integers(0, 1 << 32, (out_dim, in_dim * bits // 32), dtype=np.uint32)
    pairs = np.full((2, out_dim, in_dim // GROUP), 0x3C00, np.uint16)  # bf16 0.0078
    return [Buffer.from_array(backend, array) for array in (words, *pairs)]
