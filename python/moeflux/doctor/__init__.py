"""`moeflux doctor`: whether this machine's devices compute what they should, and how fast.

Runs from an installed wheel. Every kernel is compared with a float64 oracle in numpy, the demo
model on each device with the same on the CPU; rates of matvec kernels, disk and memory are
measured.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .. import checked_devices
from .._version import __version__
from ..device import GPUS, KINDS
from ..errors import GpuError, MoefluxError, NoDeviceError
from ..gpu.backend import Backend
from ..memory import available_bytes
from ..planning import probe
from . import facts, speed
from .checks import check_kernels
from .model_check import check_model
from .report import DeviceReport, Report

REPEATS = 3  # of each measurement of a matvec

__all__ = ["DeviceReport", "Report", "examine"]


def examine(
    kinds: Sequence[str] = KINDS,
    *,
    disk: Path | None = None,
    facts_too: bool = True,
    note: Callable[[str], None] = lambda _: None,
) -> Report:
    """Examines this machine; takes two minutes with a GPU, else well below one.

    Args:
        kinds: devices to look for.
        disk: folder whose disk is measured; None takes the one where the hub keeps models.
        facts_too: ask what only this machine can tell of its GPU; most of the time goes there.
        note: hears what is being done.

    Returns:
        A Report; its `problems` say what is wrong.
    """
    report = Report(_system())
    for kind in kinds:
        # What ends the examination early, a crash or Ctrl-C, leaves no mark.
        checked_devices.revoke(kind)
        n_problems = len(report.problems)
        backend, absent = _open(kind, report.problems)
        if backend is None:
            report.devices.append(DeviceReport(kind, absent=absent))
            continue
        report.devices.append(_examine_device(backend, note, report.problems))
        if facts_too:
            report.devices[-1].facts = facts.measure(backend, kind in GPUS, note, disk)
        if kind in GPUS and len(report.problems) == n_problems:
            checked_devices.note_passed(backend._native)
    note("disk")
    try:
        report.disk = probe.disk(disk or probe.models_folder())
    except MoefluxError as error:
        report.problems.append(str(error))
    note("memory")
    report.memory_rate = probe.memory()
    return report


def _open(kind: str, problems: list[str]) -> tuple[Backend | None, str]:
    """The device, or None and why there is none."""
    try:
        return Backend(kind), ""
    except NoDeviceError as error:
        if kind == "metal" and sys.platform == "darwin":
            problems.append(f"a Mac without Metal: {error}")
        return None, str(error)
    except GpuError as error:
        problems.append(f"{kind}: {error}")
        return None, str(error)


def _examine_device(
    backend: Backend, note: Callable[[str], None], problems: list[str]
) -> DeviceReport:
    kind = backend.kind
    device = DeviceReport(kind, name=backend.name, limits=dataclasses.asdict(backend.limits))
    device.n_kernels = len(backend.kernels)
    for kernel in backend.kernels:
        note(f"{kind}: compiling {kernel}")
        try:
            backend.pipeline(kernel)
        except GpuError as error:
            device.compile_errors.append(f"{kernel}: {error}")
    device.checks = check_kernels(backend, note)
    problems += [f"{kind}: {error}" for error in device.compile_errors]
    problems += [
        f"{kind}: {check.kernel}: {check.problem}" for check in device.checks if check.problem
    ]
    note(f"{kind}: the demo model")
    device.model = check_model(kind)
    if device.model.problem:
        problems.append(f"{kind}: demo model: {device.model.problem}")
    try:
        device.rates = speed.measure_all(backend, note, REPEATS)
    except MoefluxError as error:
        problems.append(f"{kind}: rates of matvec kernels: {error}")
    return device


def _system() -> dict[str, str]:
    return {
        "moeflux": __version__,
        "system": platform.platform(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{available_bytes() / 1e9:.1f} GB available",
        "python": f"{platform.python_version()}, numpy {np.__version__}",
    }
