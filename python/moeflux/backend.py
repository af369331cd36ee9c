"""`Backend`: the kernels of a device, by name. Knows buffers, scalars and command buffers.

A dispatch is checked here for the number, types and owners of its arguments, by the device against
the sizes that the kernel's binding table states; only then does anything run.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from . import _core
from .buffer import DTYPES, Buffer
from .errors import FormatError, GpuError, KernelNotFoundError, NoDeviceError

ALL_KERNELS: tuple[str, ...] = tuple(info.name for info in _core.kernel_table() if info.contract)

KINDS = ("metal", "host")  # in the order in which Backend() looks
_RANGES = {"u32": (0, (1 << 32) - 1), "i32": (-(1 << 31), (1 << 31) - 1)}
Argument = Buffer | int | float | np.generic | None
Extent = int | Sequence[int]


@dataclass(frozen=True)
class Limits:
    """What a device can take; sizes in bytes."""

    max_buffer_bytes: int
    working_set_bytes: int  # what it advises to keep resident; 0: no advice
    max_threads: int  # a threadgroup
    threadgroup_bytes: int
    page_bytes: int
    unified_memory: bool


@dataclass(frozen=True)
class Pipeline:
    """A compiled kernel: its function constants, defaults filled in, and its limits."""

    name: str
    constants: dict[str, int]
    max_threads: int  # a threadgroup
    _native: _core.NativePipeline


class Backend:
    """A device and its compiled kernels. Safe to share between threads.

    Args:
        kind: "metal", "host" (the same shaders run on the CPU, on every machine), or None: Metal
            where there is one, else the host.

    Raises:
        NoDeviceError: this machine has no such device; the message says why.

    Example:
        >>> backend = Backend("host")
        >>> a = Buffer.from_array(backend, np.ones(8, np.float32))
        >>> out = Buffer.zeros(backend, 8)
        >>> backend.dispatch("residual_add", [a, a, out, np.uint32(8)])
        >>> out.numpy()[0]
        np.float32(2.0)
    """

    def __init__(self, kind: str | None = None) -> None:
        if kind is not None and kind not in KINDS:
            raise FormatError(f"[backend::Backend] expected metal or host, found {kind!r}")
        self._native = _core.NativeDevice(kind) if kind else _first_device()

    @property
    def kind(self) -> str:
        """The device's kind: "metal" or "host"."""
        return self._native.kind

    @property
    def name(self) -> str:
        """The device's name, as its driver gives it."""
        return self._native.name

    @property
    def limits(self) -> Limits:
        """What the device can take."""
        return Limits(**self._native.limits)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Every kernel of the shader library, alphabetical; `ALL_KERNELS` are among them."""
        return tuple(_kernel_table())

    @property
    def pipeline_count(self) -> int:
        """Compiled kernels in the cache."""
        return self._native.pipeline_count

    def pipeline(self, name: str, constants: Mapping[str, int] | None = None) -> Pipeline:
        """Compiles a kernel on first request; afterwards it comes from the cache.

        Args:
            name: one of `kernels`.
            constants: function constants by name; those left out have their defaults.

        Raises:
            KernelNotFoundError: the library has no such kernel.
            PipelineError: the kernel has no such constant, or makes no pipeline with it.
            LibraryCompileError: the shaders do not compile; with the compiler's text.
        """
        _kernel_info(name)
        values = [
            (key, _integer(f"{name}: constant {key}", "u32", value))
            for key, value in (constants or {}).items()
        ]
        native = self._native.pipeline(name, values)
        return Pipeline(name, native.constants, native.max_threads, native)

    def warm_all(self) -> None:
        """Compiles every kernel of the library with its default constants."""
        for name in self.kernels:
            self.pipeline(name)

    def dispatch(
        self,
        name: str,
        args: Sequence[Argument],
        grid: Extent | None = None,
        threadgroup: Extent | None = None,
        constants: Mapping[str, int] | None = None,
        wait: bool = True,
    ) -> Command | None:
        """Runs one kernel.

        Args:
            name: one of `kernels`.
            args: one per binding, in binding order: a `Buffer`; a number for a scalar; None for a
                buffer of which the kernel uses no element.
            grid: threads in all, 1 to 3 dimensions; None takes the kernel's default.
            threadgroup: threads of a threadgroup; None takes the kernel's default.
            constants: function constants by name.
            wait: until it has run. Ctrl-C ends the waiting, not the kernel.

        Returns:
            None, or with `wait=False` the `Command` in flight. Buffers may be dropped meanwhile.

        Raises:
            KernelNotFoundError: no such kernel.
            FormatError: an argument that the kernel cannot take; nothing has run.
            GpuError: the device failed while it ran.
        """
        with self.commands(wait=wait) as command:
            command.dispatch(name, args, grid, threadgroup, constants)
        return None if wait else command

    def commands(self, wait: bool = True) -> Command:
        """One command buffer for several dispatches, each of which sees the writes of those before.

        Args:
            wait: at the end of the `with` block, until all have run.

        Example:
            >>> with backend.commands() as commands:
            ...     commands.dispatch("rms_norm_sum_sq", [x, sum_sq, np.uint32(8)])
            ...     commands.dispatch("rms_norm_apply", [x, w, sum_sq, out, np.uint32(8), 1e-6])
        """
        return Command(self, wait)

    def __repr__(self) -> str:
        return f"<Backend {self.kind} {self.name!r}, {self.pipeline_count} pipelines cached>"


class Command:
    """A command buffer: dispatches are recorded in its `with` block and run when the block ends.

    Made by `Backend.commands` and `Backend.dispatch`. Recording belongs to one thread. When the
    block ends in an exception nothing of it runs.
    """

    def __init__(self, backend: Backend, wait: bool) -> None:
        self._backend = backend
        self._wait = wait
        self._native = _core.NativeCommands(backend._native)

    def dispatch(
        self,
        name: str,
        args: Sequence[Argument],
        grid: Extent | None = None,
        threadgroup: Extent | None = None,
        constants: Mapping[str, int] | None = None,
    ) -> None:
        """Records one kernel; arguments and errors are those of `Backend.dispatch`."""
        if self._native.committed:
            raise GpuError("[backend::Command] expected a command buffer that still records")
        bindings = _kernel_info(name).bindings
        args = list(args)
        if len(args) != len(bindings):
            names = ", ".join(binding.name for binding in bindings)
            raise FormatError(
                f"[backend::dispatch] {name}: expected {len(bindings)} arguments ({names}), "
                f"found {len(args)}"
            )
        packed = [self._packed(name, b, a) for b, a in zip(bindings, args, strict=True)]
        self._native.dispatch(
            self._backend.pipeline(name, constants)._native,
            packed,
            _extent(f"{name}: grid", grid),
            _extent(f"{name}: threadgroup", threadgroup),
        )

    def wait(self) -> None:
        """Blocks until the device is through with it. Ctrl-C ends the waiting, not the command.

        Raises:
            GpuError: what the device reported, each time; or it was never committed.
        """
        self._native.wait()

    @property
    def done(self) -> bool:
        """Whether the device is through with it, well or not."""
        return self._native.done

    @property
    def gpu_seconds(self) -> float:
        """Time that the device spent on it. Raises GpuError before it is `done`."""
        return self._native.gpu_seconds

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        self._native.commit()
        if self._wait:
            self._native.wait()

    def _packed(
        self, kernel: str, binding: _core.Binding, value: Any
    ) -> _core.NativeBuffer | int | None:
        where = f"{kernel}: {binding.name}"
        if binding.scalar:
            return _scalar(where, binding.dtype, value)
        if value is None:
            return None
        expected = DTYPES[binding.dtype]
        if not isinstance(value, Buffer):
            raise FormatError(
                f"[backend::dispatch] {where}: expected a Buffer of {expected}, found "
                f"{type(value).__name__}"
            )
        if value.backend is not self._backend:
            raise FormatError(f"[backend::dispatch] {where}: the buffer belongs to another backend")
        if value.dtype != expected:
            raise FormatError(
                f"[backend::dispatch] {where}: expected a Buffer of {expected}, found {value.dtype}"
            )
        return value._native


def _first_device() -> _core.NativeDevice:
    for kind in KINDS[:-1]:
        try:
            return _core.NativeDevice(kind)
        except NoDeviceError:
            continue
    return _core.NativeDevice(KINDS[-1])


@functools.cache
def _kernel_table() -> dict[str, _core.KernelInfo]:
    return {info.name: info for info in _core.kernel_table()}


def _kernel_info(name: str) -> _core.KernelInfo:
    info = _kernel_table().get(name)
    if info is None:
        raise KernelNotFoundError(f"[backend::Backend] the library has no kernel {name!r}")
    return info


def _integer(where: str, dtype: str, value: Any) -> int:
    """The 32-bit pattern of an integer that a binding of `dtype` can take."""
    low, high = _RANGES[dtype]
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise FormatError(f"[backend::dispatch] {where}: expected {dtype}, found {value!r}")
    return int(value) & 0xFFFFFFFF


def _scalar(where: str, dtype: str, value: Any) -> int:
    """The 32-bit pattern of a number: a Python int fits f32 too, a numpy type only its own kind."""
    if dtype != "f32":
        return _integer(where, dtype, value)
    if not isinstance(value, int | float | np.floating) or isinstance(value, bool):
        raise FormatError(f"[backend::dispatch] {where}: expected f32, found {value!r}")
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except OverflowError:
        raise FormatError(
            f"[backend::dispatch] {where}: expected a number that f32 holds, found {value!r}"
        ) from None


def _extent(where: str, value: Extent | None) -> tuple[int, int, int] | None:
    if value is None:
        return None
    dims = (value,) if isinstance(value, int | np.integer) else tuple(value)
    if not 1 <= len(dims) <= 3:
        raise FormatError(
            f"[backend::dispatch] {where}: expected 1 to 3 dimensions, found {value!r}"
        )
    x, y, z = (*(_integer(where, "u32", dim) for dim in dims), 1, 1)[:3]
    return x, y, z
