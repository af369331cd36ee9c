"""`Backend`: the kernels of a device, by name. Knows buffers, scalars and command buffers.

Owns device, queue, library and pipeline cache; nothing is global.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..arguments import FLAG, PATH, check, one_of, optional, show
from ..device import KINDS, first_device
from ..errors import FormatError
from .command import Argument, Command, Extent, integer
from .device import KERNELS, Limits, Pipeline, kernel_info
from .library import Library

ALL_KERNELS: tuple[str, ...] = tuple(name for name, info in KERNELS.items() if info.contract)
RULES = {"kind": optional(one_of(KINDS)), "wait": FLAG, "timed": FLAG, "path": PATH}


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
        check("backend::Backend", FormatError, RULES, {"kind": kind})
        self._native = first_device((kind,) if kind else KINDS)

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
    def info(self) -> dict[str, Any]:
        """The device in plain types, for reports: kind, name, kernels compiled, and its limits."""
        return {"kind": self.kind, "name": self.name, "pipelines": self.pipeline_count,
                **asdict(self.limits)}  # fmt: skip

    @property
    def kernels(self) -> tuple[str, ...]:
        """Every kernel of the shader library, alphabetical; `ALL_KERNELS` are among them."""
        return tuple(KERNELS)

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
            FormatError: a constant that is no u32.
            PipelineError: the kernel has no such constant, or makes no pipeline with it.
            LibraryCompileError: the shaders do not compile; with the compiler's text.
        """
        kernel_info(name)
        constants = {} if constants is None else constants
        if not isinstance(constants, Mapping) or not all(isinstance(k, str) for k in constants):
            raise FormatError(f"[backend::Backend] {name}: constants: expected a mapping of names "
                              f"to integers, found {show(constants)}")  # fmt: skip
        values = [
            (key, integer(f"{name}: constant {key}", "u32", value))
            for key, value in constants.items()
        ]
        native = self._native.pipeline(name, values)
        return Pipeline(name, native.constants, native.max_threads, native)

    def warm_all(self) -> None:
        """Compiles every kernel of the library with its default constants."""
        for name in self.kernels:
            self.pipeline(name)

    def compile(self, source: str) -> Library:
        """Compiles kernels of one's own, in the Metal Shading Language, with safe math.

        What such a kernel does with its arguments is not known: their number and types, and what it
        reaches, are not checked. One that reaches past a buffer reads or writes what lies there, or
        is a GpuError. Numbers are given as np.float32, np.uint32 or np.int32, a struct as a
        `Buffer`; grid and threadgroup must be given. There are no function constants.

        Raises:
            LibraryCompileError: the source does not compile; with the compiler's text.
            GpuError: this device has no compiler: only "metal" has one.
        """
        return Library(self, source)

    @contextmanager
    def capture(self, path: str | os.PathLike[str]) -> Iterator[None]:
        """Records what the GPU does in the block into a ".gputrace" document, for Xcode.

        Args:
            path: of the document; there must be none yet.

        Raises:
            GpuError: the system does not let this process (set MTL_CAPTURE_ENABLED=1 before it
                starts) or does not write there, another recording is under way, or the device is
                not "metal".

        Example:
            >>> with backend.capture("scale.gputrace"):  # doctest: +SKIP
            ...     backend.dispatch("residual_add", [a, a, out, np.uint32(8)])
        """
        check("backend::Backend", FormatError, RULES, {"path": path})
        self._native.begin_capture(os.fsdecode(path))
        try:
            yield
        finally:
            self._native.end_capture()

    def dispatch(
        self,
        name: str | Pipeline,
        args: Sequence[Argument],
        grid: Extent | None = None,
        threadgroup: Extent | None = None,
        constants: Mapping[str, int] | None = None,
        wait: bool = True,
    ) -> Command | None:
        """Runs one kernel.

        Args:
            name: one of `kernels`, or what `pipeline` or a `Library` gives.
            args: one per binding, in binding order: a `Buffer`; a number for a scalar; None for a
                buffer of which the kernel uses no element; a list of them for a list of buffers
                that the kernel reaches by address.
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

    def commands(self, wait: bool = True, timed: bool = False) -> Command:
        """One command buffer for several dispatches, each of which sees the writes of those before.

        Args:
            wait: at the end of the `with` block, until all have run.
            timed: a command buffer for each dispatch, so that `Command.times` can tell what each
                took; the whole takes longer.

        Example:
            >>> with backend.commands() as commands:
            ...     commands.dispatch("rms_norm_sum_sq", [x, sum_sq, np.uint32(8)])
            ...     commands.dispatch("rms_norm_apply", [x, w, sum_sq, out, np.uint32(8), 1e-6])
        """
        check("backend::Backend", FormatError, RULES, {"wait": wait, "timed": timed})
        return Command(self, wait, timed)

    def __repr__(self) -> str:
        return f"<Backend {self.kind} {self.name!r}, {self.pipeline_count} pipelines cached>"
