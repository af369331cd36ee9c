"""Runs a case on a Backend and judges it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...gpu.backend import Backend
from ...gpu.buffer import Buffer
from .case import PAD, Array, Case, Out, bits, judge, unwritten


@dataclass(frozen=True)
class Outcome:
    """What a dispatch left in its buffers."""

    problem: str  # "" where all is as it must be
    error: float  # the largest, as a share of what is allowed
    outputs: list[Array]  # without padding, in binding order


def arguments(backend: Backend, case: Case, pad: int) -> list[Any]:
    """Inputs in buffers of exactly their size, outputs with `pad` elements behind them."""
    made: list[Any] = []
    for arg in case.args:
        if isinstance(arg, Out):
            start = arg.initial().reshape(-1)
            behind = np.full(pad, unwritten(start.dtype), start.dtype)
            made.append(Buffer.from_array(backend, np.concatenate([start, behind])))
        elif isinstance(arg, np.ndarray):
            made.append(Buffer.from_array(backend, arg))
        elif isinstance(arg, list):
            made.append([Buffer.from_array(backend, each) for each in arg])
        else:
            made.append(arg)
    return made


def run(backend: Backend, case: Case, pad: int = PAD) -> Outcome:
    """Dispatches the case; raises only what the dispatch raises."""
    args = arguments(backend, case, pad)
    backend.dispatch(case.kernel, args, case.grid, case.threads, case.constants)
    problems, errors, outputs = [], [0.0], []
    for place, (arg, buffer) in enumerate(zip(case.args, args, strict=True)):
        problem = ""
        if isinstance(arg, list) and not all(
            np.array_equal(made.numpy(), each) for made, each in zip(buffer, arg, strict=True)
        ):
            problem = "an input was written"
        if isinstance(arg, Out):
            got = buffer.numpy().reshape(-1)
            problem, error = judge(arg, got)
            errors.append(error)
            outputs.append(got[: arg.expected.size])
        elif isinstance(arg, np.ndarray) and not np.array_equal(bits(buffer.numpy()), bits(arg)):
            problem = "an input was written"
        if problem:
            problems.append(f"argument {place}: {problem}")
    return Outcome("; ".join(problems), max(errors), outputs)
