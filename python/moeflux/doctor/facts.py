"""What only the machine itself can tell of its GPU: twelve questions, some two minutes.

The answers decide how work is handed to a device: what a command buffer costs, whether polling
beats sleeping, what kernels reach, when the system ends long work. On the host device the same runs
in small form, so that it is known to work; its numbers say nothing of a GPU.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GpuError, MoefluxError
from ..gpu.backend import Backend
from ..gpu.buffer import Buffer
from ..gpu.command import Argument
from ..model import load
from ..planning import probe
from .kernels import cases
from .kernels.run import arguments

NOTE = "shaders on the CPU: not a GPU's"


@dataclass(frozen=True)
class Fact:
    """One answer; `value` None: there is none, and `note` says why."""

    point: int  # of the twelve questions
    what: str
    value: float | None
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    repeats: int
    chain: int  # dispatches
    shapes: tuple[tuple[str, str, tuple[int, ...]], ...]  # label, kernel, shape of its case
    pauses: tuple[float, ...]  # seconds before a token
    hold_ms: tuple[int, ...]  # dispatches as long as that
    busy_seconds: float  # of disk reads beside a busy device


_FULL_SHAPES = (
    ("4: 8 experts, gate and up", "experts_gate_up_bf16_f32", (8, 768, 2048, 64)),
    ("4: 8 experts, down", "experts_down_bf16_f32", (8, 2048, 768, 64)),
    *((f"4: product of {n} rows", "qmatmul_bf16_f32", (n, 2048, 2048, 64))
      for n in (2, 8, 32, 512)),
    *((f"5: decode attention at {n}", "attention_decode_f32_8", (32, 8, 128, n, split, 0, 1))
      for n, split in ((512, 32), (1024, 32), (4096, 32), (32768, 256))),
    *((f"5: 16 rows of a prompt at {n}", "attention_prefill_f32", (16, n - 16, 32, 8, 128, 0, 0))
      for n in (2048, 8192, 32768)),
    ("6: top 8 of 128", "router_top_k_f32", (1, 128, 8)),
    ("6: top 10 of 512", "router_top_k_f32", (1, 512, 10)),
)  # fmt: skip
_SMALL_SHAPES = (
    ("4: 3 experts, gate and up", "experts_gate_up_bf16_f32", (3, 9, 2112, 64)),
    ("4: product of 5 rows", "qmatmul_bf16_f32", (5, 257, 320, 64)),
    ("5: decode attention at 257", "attention_decode_f32_8", (16, 8, 64, 257, 32, 0, 1)),
    ("5: 17 rows of a prompt", "attention_prefill_f32", (17, 0, 4, 2, 36, 0, 0)),
    ("6: top 10 of 512", "router_top_k_f32", (4, 512, 10)),
)
FULL = Sizes(100, 1000, _FULL_SHAPES, (0.0, 2.0, 10.0), (20, 50, 100, 200, 400, 1000, 2500), 1.0)
SMALL = Sizes(5, 20, _SMALL_SHAPES, (0.0, 0.01), (1, 2), 0.05)

Answers = Iterator[Fact]


def measure(
    backend: Backend, is_gpu: bool, note: Callable[[str], None], disk: Path | None = None
) -> list[Fact]:
    """Answers all twelve; what fails is an answer, too. The watchdog's comes last."""
    sizes = FULL if is_gpu else SMALL
    found: list[Fact] = []
    for point, (what, ask) in enumerate(_QUESTIONS, 1):
        note(f"{backend.kind}: {what}")
        try:
            for fact in ask(backend, sizes, disk):
                timed = fact.value is not None and fact.point < 10  # the others say how they came
                found.append(replace(fact, note=NOTE) if timed and not is_gpu else fact)
        except MoefluxError as error:
            found.append(Fact(point, what, None, "", str(error)))
    return found


class _Tiny:
    """The smallest dispatch there is."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.x, self.out = (Buffer.zeros(backend, 32) for _ in range(2))
        self.args: list[Argument] = [self.x, self.x, self.out, np.uint32(32)]
        self.record(1)

    def record(self, n: int, wait: bool = True) -> Any:
        with self.backend.commands(wait=wait) as commands:
            for _ in range(n):
                commands.dispatch("residual_add", self.args)
        return commands


def _spread(point: int, what: str, seconds: list[float]) -> Answers:
    ordered = sorted(seconds)
    yield Fact(point, f"{what}, median", 1e6 * statistics.median(ordered), "us")
    yield Fact(point, f"{what}, 95th of 100", 1e6 * ordered[int(0.95 * (len(ordered) - 1))], "us")


def _sleeping(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    seconds = []
    for _ in range(sizes.repeats):
        begin = time.perf_counter()
        with backend.commands():
            pass
        seconds.append(time.perf_counter() - begin)
    yield from _spread(1, "empty command buffer, commit to waking", seconds)


def _polling(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    one = Buffer.from_array(backend, np.ones(32, np.float32))
    out = Buffer.zeros(backend, 32)
    memory, seconds = out.numpy(), []
    for _ in range(sizes.repeats):
        memory[:] = 0
        begin = time.perf_counter()
        command = backend.dispatch("residual_add", [one, one, out, np.uint32(32)], wait=False)
        while memory[0] != 2 and time.perf_counter() - begin < 1:
            pass
        seconds.append(time.perf_counter() - begin)
        if command is not None:
            command.wait()
    yield from _spread(2, "one dispatch, commit to its write in shared memory", seconds)


def _chain(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    tiny = _Tiny(backend)
    commands = tiny.record(sizes.chain)
    each = 1e6 * commands.gpu_seconds / sizes.chain
    yield Fact(3, f"of {sizes.chain} tiny dispatches, each", each, "us")
    yield Fact(3, "the same, concurrent", None, "us", "encoders are serial in this version")


def _kernels(point: int) -> Callable[[Backend, Sizes, Path | None], Answers]:
    def ask(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
        for label, kernel, shape in sizes.shapes:
            number, _, what = label.partition(": ")
            if int(number) != point:
                continue
            try:
                yield _time_case(backend, point, what, kernel, shape)
            except (MoefluxError, KeyError, ValueError, TypeError, MemoryError) as error:
                yield Fact(point, what, None, "us", f"{kernel}: {type(error).__name__}: {error}")

    return ask


def _time_case(
    backend: Backend, point: int, what: str, kernel: str, shape: tuple[int, ...]
) -> Fact:
    case = cases.make(kernel, shape)
    args = arguments(backend, case, 0)
    seconds = []
    for _ in range(6):
        with backend.commands() as commands:
            commands.dispatch(kernel, args, case.grid, case.threads, case.constants)
        seconds.append(commands.gpu_seconds)
    nbytes = sum(arg.nbytes for arg in args if isinstance(arg, Buffer))
    best = statistics.median(seconds[1:])
    rate = f"{nbytes / best / 1e9:.1f} GB/s of its buffers" if best else ""
    return Fact(point, what, 1e6 * best, "us", rate)


def _encoding(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    tiny = _Tiny(backend)
    begin = time.perf_counter()
    commands = tiny.record(sizes.chain, wait=False)
    seconds = time.perf_counter() - begin
    commands.wait()
    yield Fact(7, "recording and encoding a dispatch, Python's share in it",
               1e6 * seconds / sizes.chain, "us")  # fmt: skip


def _pauses(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    session = load(memory="64MB", context=64, device=backend.kind).session()
    session.step([1, 2, 3])
    for pause in sizes.pauses:
        session.step([4])
        time.sleep(pause)
        begin = time.perf_counter()
        session.step([5])
        yield Fact(8, f"a token of the demo model after a pause of {pause:g} s",
                   1e3 * (time.perf_counter() - begin), "ms")  # fmt: skip


def _compiling(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    for when in ("first", "again"):
        begin = time.perf_counter()
        fresh = Backend(backend.kind)
        fresh.pipeline("residual_add")
        library = time.perf_counter() - begin
        yield Fact(9, f"device and library, {when}", 1e3 * library, "ms")
        for kernel in fresh.kernels:
            fresh.pipeline(kernel)
        each = (time.perf_counter() - begin - library) / max(len(fresh.kernels) - 1, 1)
        yield Fact(9, f"a pipeline, {when}", 1e3 * each, "ms")


def _threads(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    """Fewer than 1024 that nobody asked for are a sign of many registers."""
    most = {kernel: backend.pipeline(kernel).max_threads for kernel in backend.kernels}
    free = {kernel: backend._native.untold_threads(kernel) for kernel in most}
    if not any(free.values()):
        yield Fact(10, "largest threadgroup of a pipeline", None, "threads",
                   "this device compiles no pipelines")  # fmt: skip
    for kernel, threads in free.items():
        if threads:
            yield Fact(10, f"largest threadgroup of {kernel}, untold", threads, "threads",
                       f"told: {most[kernel]}")  # fmt: skip


def _reading(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    """Into ordinary memory, as experts are read; by the number of reads under way."""
    tiny, stop = _Tiny(backend), threading.Event()
    failures: list[MoefluxError] = []

    def work() -> None:
        try:
            while not stop.is_set():
                tiny.record(sizes.chain)
        except MoefluxError as error:
            failures.append(error)

    folder = disk or probe.models_folder()
    alone = probe.disk(folder, seconds=sizes.busy_seconds)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        busy = probe.disk(folder, seconds=sizes.busy_seconds)
    finally:
        stop.set()
        thread.join()
    if failures:  # then the device was not busy
        raise failures[0]
    for batch, rate in alone.by_batch.items():
        yield Fact(11, f"disk, {batch} at once", rate / 1e9, "GB/s", alone.mode)
        yield Fact(11, f"disk, {batch} at once, the device busy", busy.by_batch[batch] / 1e9,
                   "GB/s", busy.mode)  # fmt: skip


def _holding(backend: Backend, sizes: Sizes, disk: Path | None) -> Answers:
    """A dispatch that loops over more and more positions, up to the first that is ended.

    Where one of all positions is too short, several of them share a command buffer.
    """
    heads, head_dim, largest = 8, 128, 1 << 20 if sizes is FULL else 1 << 12
    scores = Buffer.zeros(backend, heads * largest)
    values = Buffer.zeros(backend, largest * head_dim)
    out = Buffer.zeros(backend, heads * head_dim)

    def hold(n: int, times: int = 1) -> float:
        numbers = [np.uint32(v) for v in (head_dim, head_dim, n, n, heads)]
        args: list[Argument] = [scores, values, out, *numbers]
        with backend.commands() as commands:
            for _ in range(times):
                commands.dispatch("attn_values_batched", args, heads * head_dim, 256)
        return commands.gpu_seconds

    first = max(hold(largest // 64), hold(largest // 64))
    if first == 0:
        raise GpuError("the device tells no times")
    rate = first / (largest // 64)
    for ms in sizes.hold_ms:
        positions = 1e-3 * ms / rate
        times = min(max(math.ceil(positions / largest), 1), 1000)
        what = f"{ms} ms in one dispatch" if times == 1 else f"{ms} ms in {times} dispatches"
        try:
            seconds = hold(max(int(positions / times), 1), times)
        except GpuError as error:
            yield Fact(12, what, None, "ms", f"ended: {error}")
            return
        rate *= max(1e3 * seconds / ms, 0.5)  # longer ones need not be as slow
        yield Fact(12, what, 1e3 * seconds, "ms", "ran to its end")
    yield Fact(12, "the first that was ended", None, "ms", "none: all ran to their end")


_QUESTIONS: tuple[tuple[str, Callable[[Backend, Sizes, Path | None], Answers]], ...] = (
    ("an empty command buffer", _sleeping),
    ("the same by polling", _polling),
    ("a chain of dispatches", _chain),
    ("experts and products", _kernels(4)),
    ("attention", _kernels(5)),
    ("the choice of experts", _kernels(6)),
    ("encoding", _encoding),
    ("a token after a pause", _pauses),
    ("compiling", _compiling),
    ("threads of pipelines", _threads),
    ("reading while the device works", _reading),
    ("how long a dispatch may take", _holding),
)


def table(facts: list[Fact]) -> Iterator[str]:
    """The facts as lines of a report."""
    for fact in facts:
        value = "-" if fact.value is None else f"{fact.value:.4g} {fact.unit}"
        yield f"{fact.point:>4}  {fact.what:<58}{value:>14}  {fact.note}".rstrip()
