"""What the doctor found: plain data, and the text that a person pastes into an issue."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..planning.rates import DiskRate
from .checks import KernelCheck
from .facts import Fact, table
from .model_check import ModelCheck
from .speed import MatvecRate


@dataclass
class DeviceReport:
    """One kind of device: what it is and does, or why there is none."""

    kind: str
    absent: str | None = None  # why
    name: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    n_kernels: int = 0
    compile_errors: list[str] = field(default_factory=list)
    checks: list[KernelCheck] = field(default_factory=list)
    model: ModelCheck | None = None
    rates: list[MatvecRate] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)


@dataclass
class Report:
    """The whole examination. `problems` is empty on a machine where all is well."""

    system: dict[str, Any]
    devices: list[DeviceReport] = field(default_factory=list)
    disk: DiskRate | None = None
    memory_rate: float | None = None  # bytes/s
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """The report as people read it."""
        lines = [f"{key + ':':<12}{value}" for key, value in self.system.items()]
        for device in self.devices:
            lines += ["", *_device_lines(device)]
        lines.append("")
        if self.disk is not None:
            batches = ", ".join(f"{n}: {r / 1e9:.2f}" for n, r in self.disk.by_batch.items())
            lines.append(f"{'disk:':<12}GB/s by experts read at once: {batches} ({self.disk.mode})")
        if self.memory_rate is not None:
            lines.append(f"{'memory:':<12}{self.memory_rate / 1e9:.1f} GB/s")
        lines.append("")
        lines += [f"PROBLEM: {problem}" for problem in self.problems] or ["no problem found"]
        return "\n".join(lines)


def _device_lines(device: DeviceReport) -> Iterable[str]:
    if device.absent is not None:
        yield f"{device.kind + ':':<12}absent: {device.absent}"
        return
    yield f"{device.kind + ':':<12}{device.name}"
    limits = ", ".join(f"{key} {value}" for key, value in device.limits.items())
    yield f"  limits: {limits}"
    compiled = device.n_kernels - len(device.compile_errors)
    yield f"  compiled: {compiled} of {device.n_kernels} kernels"
    right = [check for check in device.checks if check.problem is None]
    yield f"  agree with their oracles: {len(right)} of {len(device.checks)} kernels"
    if right:
        worst = max(right, key=lambda check: check.error)
        yield f"  largest error: {worst.error:.2f} of what is allowed ({worst.kernel})"
    if device.model is not None and device.model.problem is None:
        yield from _model_lines(device.kind, device.model)
    if device.rates:
        yield "  matvec, weight bytes read, GB/s:"
        yield from _rate_lines(device.rates)
    if device.facts:
        yield "  what only this machine can tell:"
        yield from (f"  {line}" for line in table(device.facts))


def _model_lines(kind: str, model: ModelCheck) -> Iterable[str]:
    yield (
        f"  demo model: {model.n_tokens} tokens as on the CPU, logits within {model.error:.1e}; "
        f"a token: {model.dispatches:.0f} dispatches, {model.commits:.1f} commits, "
        f"{model.waits:.0f} waits"
    )
    note = " (shaders on the CPU: no GPU's speed)" if kind == "host" else ""
    yield f"  demo model: {model.tokens_per_second:.1f} tokens/s{note}"


def _rate_lines(rates: list[MatvecRate]) -> Iterable[str]:
    shapes = list(dict.fromkeys((rate.out_dim, rate.in_dim) for rate in rates))
    width = max(len(rate.kernel) for rate in rates)
    yield f"    {'':<{width}}" + "".join(f"{f'{out}x{cols}':>12}" for out, cols in shapes)
    for kernel in dict.fromkeys(rate.kernel for rate in rates):
        found = {(r.out_dim, r.in_dim): r.gb_per_s for r in rates if r.kernel == kernel}
        yield f"    {kernel:<{width}}" + "".join(f"{found[shape]:>12.2f}" for shape in shapes)
