"""Each kernel against its float64 oracle, on the shapes that the tests always try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import MoefluxError
from ..gpu.backend import Backend
from .kernels import cases
from .kernels.run import run


@dataclass(frozen=True)
class KernelCheck:
    """What came of one kernel."""

    kernel: str
    n_cases: int  # that agreed
    error: float  # the largest, as a share of what is allowed
    problem: str | None = None


def check_kernels(backend: Backend, note: Callable[[str], None]) -> list[KernelCheck]:
    """Runs every kernel that has an oracle; `note` hears which."""
    checks = []
    for kernel in cases.KERNELS:
        note(f"{backend.kind}: checking {kernel}")
        checks.append(check_kernel(backend, kernel))
    return checks


def check_kernel(backend: Backend, kernel: str) -> KernelCheck:
    """Runs one kernel on its listed shapes, up to the first that goes wrong."""
    n_cases, error = 0, 0.0
    for shape in cases.KERNELS[kernel].shapes:
        case = cases.make(kernel, shape)
        try:
            outcome = run(backend, case)
        except MoefluxError as failure:
            return KernelCheck(kernel, n_cases, error, f"{case}: {failure}")
        if outcome.problem:
            return KernelCheck(kernel, n_cases, error, f"{case}: {outcome.problem}")
        n_cases += 1
        error = max(error, outcome.error)
    return KernelCheck(kernel, n_cases, error)
