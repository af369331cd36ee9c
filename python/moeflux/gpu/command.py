"""`Command`: a command buffer, and the checks that an argument passes on its way into one.

Number, types and owners of arguments are checked here; sizes by the device, against what the
kernel's binding table states. Only then does anything run.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from .. import _core
from ..arguments import is_integer, listed, show
from ..errors import FormatError, GpuError
from .buffer import DTYPES, Buffer
from .device import Device, Pipeline, kernel_info

Argument = Buffer | Sequence[Buffer | None] | int | float | np.generic | None
Extent = int | Sequence[int]
_Packed = (
    _core.NativeBuffer
    | list[_core.NativeBuffer | None]
    | tuple[_core.NativeBuffer, int, int]
    | int
    | None
)
_OWN_TYPES = {"float32": "f32", "uint32": "u32", "int32": "i32"}
_RANGES = {"u32": (0, (1 << 32) - 1), "i32": (-(1 << 31), (1 << 31) - 1)}


class Command:
    """A command buffer: dispatches are recorded in its `with` block and run when the block ends.

    Made by `Backend.commands` and `Backend.dispatch`. Recording belongs to one thread. When the
    block ends in an exception nothing of it runs.
    """

    def __init__(self, backend: Device, wait: bool, timed: bool = False) -> None:
        self._backend = backend
        self._wait = wait
        self._timed = timed
        self._natives = [_core.NativeCommands(backend._native)]
        self._labels: list[str] = []

    def dispatch(
        self,
        name: str | Pipeline,
        args: Sequence[Argument],
        grid: Extent | None = None,
        threadgroup: Extent | None = None,
        constants: Mapping[str, int] | None = None,
        label: str | None = None,
    ) -> None:
        """Records one kernel; arguments and errors are those of `Backend.dispatch`.

        `label` names it in `times`; without one it is the kernel's name.
        """
        if self._natives[0].committed:
            raise GpuError("[backend::Command] expected a command buffer that still records")
        given = name if isinstance(name, Pipeline) else None
        kernel = name.name if isinstance(name, Pipeline) else name
        if given is not None and constants:
            raise FormatError(f"[backend::dispatch] {kernel}: expected no constants: the pipeline "
                              "has its own")  # fmt: skip
        args = listed("backend::dispatch", FormatError, "args", "a list", args)
        if given is None or given.checked:
            packed = self._all_packed(kernel, args)
        else:
            packed = [self._unknown(f"{kernel}: argument {i}", a) for i, a in enumerate(args)]
        pipeline = given or self._backend.pipeline(kernel, constants)
        if self._timed and self._labels:  # a command buffer each: those are what has times
            self._natives.append(_core.NativeCommands(self._backend._native))
        self._natives[-1].dispatch(
            pipeline._native,
            packed,
            _extent(f"{kernel}: grid", grid),
            _extent(f"{kernel}: threadgroup", threadgroup),
        )
        self._labels.append(kernel if label is None else label)

    def wait(self) -> None:
        """Blocks until the device is through with it. Ctrl-C ends the waiting, not the command.

        Raises:
            GpuError: what the device reported, each time; or it was never committed.
        """
        for native in self._natives:
            native.wait()

    @property
    def done(self) -> bool:
        """Whether the device is through with it, well or not."""
        return all(native.done for native in self._natives)

    @property
    def gpu_seconds(self) -> float:
        """Time that the device spent on it. Raises GpuError before it is `done`."""
        return sum(native.gpu_seconds for native in self._natives)

    @property
    def times(self) -> list[tuple[str, float]]:
        """Label and seconds on the device of each dispatch, in order.

        Raises:
            GpuError: before it is `done`, or it was not made with `timed=True`.
        """
        if not self._timed:
            raise GpuError(
                "[backend::Command] expected commands(timed=True), which times dispatches"
            )
        seconds = [native.gpu_seconds for native in self._natives]
        return list(zip(self._labels, seconds, strict=False))

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
        for native in self._natives:
            native.commit()
        if self._wait:
            self.wait()

    def _all_packed(self, name: str, args: Sequence[Any]) -> list[_Packed]:
        bindings = kernel_info(name).bindings
        if len(args) != len(bindings):
            names = ", ".join(binding.name for binding in bindings)
            raise FormatError(
                f"[backend::dispatch] {name}: expected {len(bindings)} arguments ({names}), "
                f"found {len(args)}"
            )
        return [self._packed(name, b, a) for b, a in zip(bindings, args, strict=True)]

    def _unknown(self, where: str, value: Any) -> _Packed:
        """An argument of a kernel that nothing is known of: it says itself what it is."""
        if value is None:
            return None
        if isinstance(value, np.generic) and value.dtype.name in _OWN_TYPES:
            return _scalar(where, _OWN_TYPES[value.dtype.name], value)
        if isinstance(value, list | tuple):
            return [None if each is None else self._whole(where, each) for each in value]
        native = self._owned(where, value, ", a list of them, np.float32, np.uint32 or np.int32")
        if value.read_only:
            raise FormatError(
                f"[backend::dispatch] {where}: expected memory that may be written, found read-only"
            )
        return native, value.offset, value.nbytes

    def _packed(self, kernel: str, binding: _core.Binding, value: Any) -> _Packed:
        where = f"{kernel}: {binding.name}"
        if binding.scalar:
            return _scalar(where, binding.dtype, value)
        if value is None:
            return None
        if binding.dtype == "u64":  # addresses
            if not isinstance(value, list | tuple):
                raise FormatError(
                    f"[backend::dispatch] {where}: expected a list of Buffers, found "
                    f"{type(value).__name__}"
                )
            return [None if each is None else self._whole(where, each) for each in value]
        expected = DTYPES[binding.dtype]
        native = self._owned(where, value, f" of {expected}")
        if value.dtype != expected:
            raise FormatError(
                f"[backend::dispatch] {where}: expected a Buffer of {expected}, found {value.dtype}"
            )
        if binding.writable and value.read_only:
            raise FormatError(
                f"[backend::dispatch] {where}: expected memory that may be written, found read-only"
            )
        return native, value.offset, value.nbytes

    def _whole(self, where: str, value: Any) -> _core.NativeBuffer:
        native = self._owned(where, value)
        if value.offset:
            raise FormatError(
                f"[backend::dispatch] {where}: expected a list of whole Buffers, found a part"
            )
        return native

    def _owned(self, where: str, value: Any, kind: str = "") -> _core.NativeBuffer:
        if not isinstance(value, Buffer):
            raise FormatError(
                f"[backend::dispatch] {where}: expected a Buffer{kind}, found "
                f"{type(value).__name__}"
            )
        if value.backend is not self._backend:
            raise FormatError(f"[backend::dispatch] {where}: the buffer belongs to another backend")
        return value._native


def integer(where: str, dtype: str, value: Any) -> int:
    """The 32-bit pattern of an integer that a binding of `dtype` can take."""
    low, high = _RANGES[dtype]
    if not is_integer(value) or not low <= value <= high:
        raise FormatError(f"[backend::dispatch] {where}: expected {dtype}, found {show(value)}")
    return int(value) & 0xFFFFFFFF


def _scalar(where: str, dtype: str, value: Any) -> int:
    """The 32-bit pattern of a number: a Python int fits f32 too, a numpy type only its own kind."""
    if dtype != "f32":
        return integer(where, dtype, value)
    if not isinstance(value, int | float | np.floating) or isinstance(value, bool):
        raise FormatError(f"[backend::dispatch] {where}: expected f32, found {show(value)}")
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except (OverflowError, struct.error):  # the latter for an int that no float holds
        raise FormatError(
            f"[backend::dispatch] {where}: expected a number that f32 holds, found {show(value)}"
        ) from None


def _extent(where: str, value: Extent | None) -> tuple[int, int, int] | None:
    if value is None:
        return None
    dims: Sequence[Any] = (value,)
    if not is_integer(value):
        dims = listed("backend::dispatch", FormatError, where, "1 to 3 integers", value)
    if not 1 <= len(dims) <= 3:
        raise FormatError(
            f"[backend::dispatch] {where}: expected 1 to 3 dimensions, found {show(value)}"
        )
    x, y, z = (*(integer(where, "u32", dim) for dim in dims), 1, 1)[:3]
    return x, y, z
