"""Runs a case on a Backend and judges it."""

from __future__ import annotations

from typing import Any

import numpy as np

import moeflux as mf

from .case import PAD, Case, Out, bits, mistakes, unwritten


def arguments(backend: mf.Backend, case: Case, pad: int) -> list[Any]:
    """Inputs in buffers of exactly their size, outputs with `pad` elements behind them."""
    made = []
    for arg in case.args:
        if isinstance(arg, Out):
            start = arg.initial().reshape(-1)
            behind = np.full(pad, unwritten(start.dtype), start.dtype)
            made.append(mf.Buffer.from_array(backend, np.concatenate([start, behind])))
        elif isinstance(arg, np.ndarray):
            made.append(mf.Buffer.from_array(backend, arg))
        else:
            made.append(arg)
    return made


def run(backend: mf.Backend, case: Case, pad: int = PAD) -> list[np.ndarray]:
    """Dispatches the case and fails with its description where a buffer is not as it must be.

    Returns:
        The outputs, without padding, in binding order.
    """
    args = arguments(backend, case, pad)
    grid = None if case.grid is None else (case.grid, 1, 1)
    threads = None if case.threads is None else (case.threads, 1, 1)
    backend.dispatch(case.kernel, args, grid=grid, threadgroup=threads, constants=case.constants)
    for place, (arg, buffer) in enumerate(zip(case.args, args, strict=True)):
        where = f"{case}, argument {place}"
        if isinstance(arg, Out):
            wrong = mistakes(arg, buffer.numpy().reshape(-1))
            assert not wrong, f"{where}: {wrong}"
        elif isinstance(arg, np.ndarray):
            assert np.array_equal(bits(buffer.numpy()), bits(arg)), f"{where}: an input was written"
    return [args[i].numpy().reshape(-1)[: out.expected.size] for i, out in case.outputs()]
