"""The devices that tests use, and small pieces of work for them.

MOEFLUX_TEST_DEVICES names the devices, comma-separated. Each must be there, so that a machine which
was meant to test a GPU cannot pass by having none.
"""

import os

import numpy as np

import moeflux as mf

DEVICES = os.environ.get("MOEFLUX_TEST_DEVICES", "host").split(",")
SLOW_DIM = 2048  # rows and columns of the matrix of record_slow


def buffer(backend, values, dtype=np.float32):
    return mf.Buffer.from_array(backend, np.asarray(values, dtype))


def filled(backend, *shape):
    """A buffer of NaN, so that an element that nobody wrote shows."""
    return mf.Buffer.from_array(backend, np.full(shape, np.nan, np.float32))


class Add:
    """Arguments of residual_add over n elements, and what must come out."""

    def __init__(self, backend, n=8):
        self.a, self.b = (buffer(backend, np.arange(n) + i) for i in (0, 0.5))
        self.out = filled(backend, n)
        self.args = [self.a, self.b, self.out, np.uint32(n)]
        self.expected = 2 * np.arange(n) + np.float32(0.5)


def record_slow(commands, backend, n=60):
    """Records work that takes the host device some seconds; the rows of its output."""
    words = mf.Buffer.zeros(backend, (SLOW_DIM, SLOW_DIM // 8), np.uint32)
    scales = mf.Buffer.zeros(backend, (SLOW_DIM, SLOW_DIM // 64), np.uint16)
    biases = mf.Buffer.from_array(
        backend, np.full((SLOW_DIM, SLOW_DIM // 64), 0x3F80, np.uint16)
    )  # bf16 1.0
    x, out = buffer(backend, np.ones(SLOW_DIM)), filled(backend, SLOW_DIM)
    scalars = [np.uint32(SLOW_DIM), np.uint32(SLOW_DIM), np.uint32(64)]
    for _ in range(n):
        commands.dispatch("dequant_matvec_4bit_fast", [words, scales, biases, x, out, *scalars])
    return out
