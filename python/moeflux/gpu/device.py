"""The kernels that devices run, and what buffers and commands need of a `Backend`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .. import _core
from ..arguments import show
from ..errors import KernelNotFoundError

KERNELS = {info.name: info for info in _core.kernel_table()}  # by name, alphabetical


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
    checked: bool = True  # False: of a `Library`, what it does with its arguments is not known


class Device(Protocol):
    """A device and its compiled kernels; `Backend` is the one."""

    _native: _core.NativeDevice

    @property
    def kind(self) -> str:
        """The device's kind."""

    def pipeline(self, name: str, constants: Mapping[str, int] | None = None) -> Pipeline:
        """A compiled kernel."""


def kernel_info(name: str) -> _core.KernelInfo:
    """The binding table of a kernel. Raises KernelNotFoundError."""
    info = KERNELS.get(name) if isinstance(name, str) else None
    if info is None:
        raise KernelNotFoundError(f"[backend::Backend] the library has no kernel {show(name)}")
    return info
