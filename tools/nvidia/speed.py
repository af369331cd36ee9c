"""How fast kernels are: a step of one or several dispatches, repeated over fresh memory.

What a step reads is there many times, together ROTATED_BYTES, and each repetition takes the next
copy, so that nothing is found in a cache. The repetitions are one CUDA graph: no call of the CPU is
among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from msl.model import Kernel

from .driver import CudaError
from .geometry import geometry
from .kernels import Kernels

ROTATED_BYTES = 512 << 20
LEAST_STEPS, MOST_STEPS = 16, 512  # of a graph
REPLAYS = 15
_PATTERN = 1 << 24  # bytes of random contents, repeated
BYTES = {"u32": 4, "u16": 2, "u8": 1, "f32": 4, "bf16": 2, "f16": 2}


class Rotated(NamedTuple):
    """A buffer of `count` random elements, of which each repetition takes another copy."""

    kind: str  # of BYTES; floats are normally distributed, integers any bits
    count: int
    size: float = 1.0  # standard deviation of floats

    @property
    def nbytes(self) -> int:
        return self.count * BYTES[self.kind]


class Same(NamedTuple):
    """A buffer of random elements that is there once; dispatches with one `name` share it."""

    name: str
    kind: str
    count: int
    size: float = 1.0

    @property
    def nbytes(self) -> int:
        return self.count * BYTES[self.kind]


@dataclass
class Dispatch:
    """`args` in binding order: Rotated, Same, arrays, numbers for scalars, None.

    A list of Rotated is a list of buffers that the kernel reaches by address. Grid and threads of
    a threadgroup are the kernel's defaults where they are None.
    """

    kernel: str
    args: list[Any]
    grid: int | None = None
    threads: int | None = None
    constants: dict[str, int] = field(default_factory=dict)

    def geometry(self, kernel: Kernel) -> tuple[int, int]:
        """Grid and threads. Raises GeometryError where the kernel's annotations refuse them."""
        sizes = [_nbytes(arg) for arg in self.args]
        return geometry(kernel, self.args, sizes, self.grid, self.threads, self.constants)


@dataclass
class Step:
    """What is timed. `flops` of all dispatches; `nbytes` None: those of what is Rotated."""

    dispatches: list[Dispatch]
    flops: float = 0.0
    nbytes: int | None = None

    @property
    def rotated(self) -> list[Rotated]:
        args = [a for d in self.dispatches for arg in d.args for a in _flat(arg)]
        return [a for a in args if isinstance(a, Rotated)]


class Speed(NamedTuple):
    """Of one step, medians; `gap` is what a dispatch takes that does nothing.

    Registers of a thread, and bytes that did not fit there: the most of the step's kernels.
    """

    microseconds: float
    gap: float
    gigabytes: float  # a second
    teraflops: float  # a second
    registers: int
    spilled: int


def _nbytes(arg: Any) -> int:
    """Of a buffer as the kernel sees it."""
    if isinstance(arg, list):
        return 16 * len(arg)
    return int(getattr(arg, "nbytes", 0))


def _flat(arg: Any) -> list[Any]:
    return arg if isinstance(arg, list) else [arg]


def contents(kind: str, size: float, nbytes: int) -> np.ndarray:
    """At most _PATTERN random bytes of elements of a kind."""
    rng = np.random.default_rng(nbytes)
    n = -(-min(nbytes, _PATTERN) // 4) * 4
    if kind in ("u32", "u16", "u8"):
        return np.frombuffer(rng.bytes(n), np.uint8)
    values = (rng.standard_normal(n // BYTES[kind], np.float32) * size).astype(np.float32)
    if kind == "bf16":
        values = (values.view(np.uint32) >> 16).astype(np.uint16)
    elif kind == "f16":
        values = values.astype(np.float16)
    return values.view(np.uint8)


class Bench:
    """Times steps on one device."""

    def __init__(self, kernels: Kernels):
        self.kernels, self.device = kernels, kernels.device
        self._held: list[Any] = []
        self._same: dict[str, Any] = {}
        self.gap = 0.0
        if "residual_add" in kernels.by_name:
            one = [Same(n, "f32", 1) for n in "abc"]
            self.gap = self._measure(Step([Dispatch("residual_add", [*one, 1], 32, 32)]))

    def speed(self, step: Step) -> Speed:
        """Raises CudaError."""
        microseconds = self._measure(step)
        nbytes = step.nbytes
        if nbytes is None:
            nbytes = sum(a.nbytes for a in step.rotated)
        net = max(microseconds - self.gap * len(step.dispatches), 1e-3)
        functions = [self.kernels.function(key(self.kernels, d)) for d in step.dispatches]
        uses = [self.device.registers(function) for function in functions]
        registers, spilled = (max(each) for each in zip(*uses, strict=True))
        rates = nbytes / net / 1e3, step.flops / net / 1e6
        return Speed(microseconds, self.gap, *rates, registers, spilled)

    def _measure(self, step: Step) -> float:
        """Microseconds of a step, the gaps between dispatches counted."""
        size = sum(a.nbytes for a in step.rotated)
        copies = max(2, -(-ROTATED_BYTES // size)) if size else 1
        steps = min(max(copies, LEAST_STEPS), MOST_STEPS)
        try:
            launches = [self._prepare(d, copies) for d in step.dispatches]

            def record() -> None:
                for i in range(steps):
                    for function, slots, grid, threads in launches:
                        self.device.launch(function, slots[i % copies], grid, threads)

            record()  # faults show here
            self.device.wait()
            graph = self.device.graph(record)
            self.device.replay(graph, 3)
            times = self.device.replay(graph, REPLAYS)
            self.device.call("cuGraphExecDestroy", graph)
        finally:
            held, self._held = self._held, []
            self._same.clear()
            for address in held:
                self.device.free(address)
        return float(np.median(times)) * 1e3 / steps

    def _prepare(self, d: Dispatch, copies: int) -> tuple[Any, list[list[Any]], int, int]:
        """The function, and its arguments for each copy."""
        rows = zip(*(self._argument(a, copies) for a in d.args), strict=True)
        slots = [self.kernels.slots(d.kernel, list(row)) for row in rows]
        geometry = d.geometry(self.kernels.by_name[d.kernel])
        return self.kernels.function(key(self.kernels, d)), slots, *geometry

    def _argument(self, arg: Any, copies: int) -> list[Any]:
        if isinstance(arg, list):
            rows = zip(*(self._argument(a, copies) for a in arg), strict=True)
            lists = [
                self.device.addresses([(p.value, a.nbytes) for p, a in zip(row, arg, strict=True)])
                for row in rows
            ]
            self._held += lists
            return lists
        if isinstance(arg, Rotated):
            each = -(-arg.nbytes // 256) * 256
            base = self._filled(arg.kind, arg.size, each * copies)
            return [type(base)(base.value + i * each) for i in range(copies)]
        if isinstance(arg, Same):
            if arg.name not in self._same:
                self._same[arg.name] = self._filled(arg.kind, arg.size, arg.count * BYTES[arg.kind])
            return [self._same[arg.name]] * copies
        if isinstance(arg, np.ndarray) or arg is None:
            address = self.device.upload(np.zeros(4, np.uint32) if arg is None else arg)
            self._held.append(address)
            return [address] * copies
        return [arg] * copies

    def _filled(self, kind: str, size: float, nbytes: int) -> Any:
        address = self.device.allocate(nbytes)
        self._held.append(address)
        pattern = contents(kind, size, nbytes)[:nbytes]
        self.device.write(address.value, pattern)
        done = pattern.nbytes
        while done < nbytes:  # doubles what is there
            n = min(done, nbytes - done)
            self.device.copy(address.value + done, address.value, n)
            done += n
        return address


def key(kernels: Kernels, d: Dispatch) -> tuple:
    """Of the kernel, compiled for as many threads as the dispatch has."""
    return kernels.key(d.kernel, d.constants, d.geometry(kernels.by_name[d.kernel])[1])


def table(bench: Bench, steps: dict[str, Step]) -> Iterator[tuple[str, Speed | str]]:
    """Speeds by name; what faults gives its error, and the rest is measured in a new context."""
    dispatches = [d for step in steps.values() for d in step.dispatches]
    bench.kernels.compile([key(bench.kernels, d) for d in dispatches], chunk=1)
    for name, step in steps.items():
        try:
            yield name, bench.speed(step)
        except CudaError as error:
            yield name, str(error)
            bench.kernels.reset()
