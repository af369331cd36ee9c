"""Kernels of a library as functions of a device: compiled once for each set of constants."""

from __future__ import annotations

import ctypes as C
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from msl.model import Block, Builtin, Kernel, Library

from .driver import CudaError, Device
from .emit_cuda import emit_cuda
from .nvrtc import compile_cuda

MOST_THREADS = 1024  # of a threadgroup, where the kernel takes any
_SCALARS = {
    "uint": (C.c_uint32, int),
    "ulong": (C.c_uint64, int),
    "int": (C.c_int32, int),
    "float": (C.c_float, float),
}
Constants = tuple[tuple[str, int], ...]


def most_threads(kernel: Kernel) -> int:
    """Threads that a threadgroup of the kernel may have."""
    return kernel.threadgroup if isinstance(kernel.threadgroup, int) else MOST_THREADS


class Kernels:
    """Compiles what is asked for, and remembers it; `device` None: compiles only."""

    def __init__(self, library: Library, device: Device | None, arch: str):
        self.library, self.device, self.arch = library, device, arch
        self.by_name = {kernel.name: kernel for kernel in library.kernels}
        self.images: dict[tuple[str, Constants, int], bytes] = {}
        self._functions: dict[tuple[str, Constants, int], C.c_void_p] = {}

    def key(self, name: str, constants: dict[str, int], threads: int) -> tuple:
        """Of an image: values of the constants that the kernel uses."""
        kernel = self.by_name[name]
        used = tuple((c.name, int(constants.get(c.name, c.default))) for c in kernel.constants)
        return name, used, threads or most_threads(kernel)

    def compile(self, keys: Iterable[tuple], chunk: int = 6) -> None:
        """Compiles all that is missing, on every core. Raises NvrtcError."""
        missing = sorted(set(keys) - self.images.keys())
        groups: dict[Constants, list[tuple]] = {}
        for key in missing:
            groups.setdefault((*key[1], ("threads", key[2])), []).append(key)
        parts = [g[i : i + chunk] for g in groups.values() for i in range(0, len(g), chunk)]

        def one(part: list[tuple]) -> None:
            source = emit_cuda(self.library, {k[0]: k[2] for k in part}, dict(part[0][1]))
            self.images |= dict.fromkeys(part, compile_cuda(source, self.arch))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, parts))

    def function(self, key: tuple) -> C.c_void_p:
        """The kernel on the device, compiled if need be."""
        if key not in self._functions:
            self.compile([key])
            self._functions[key] = self.device.function(self.images[key], key[0])
        return self._functions[key]

    def reset(self) -> None:
        """After a fault: a new context, into which modules are loaded again."""
        self._functions.clear()
        self.device.reset()

    def slots(self, name: str, args: Sequence[Any]) -> list[Any]:
        """Arguments of a launch. `args` in binding order: addresses, and numbers for scalars."""
        kernel = self.by_name[name]
        if len(args) != len(kernel.bindings):
            raise CudaError(f"{name}: expected {len(kernel.bindings)} arguments, found {len(args)}")
        rest, slots = list(args), []
        for p in kernel.parameters:
            if isinstance(p, Builtin):
                continue
            if isinstance(p, Block):
                fields = [self._scalar(f.type, rest.pop(0)) for f in p.fields]
                data = b"".join(bytes(field) for field in fields)
                slots.append((C.c_char * len(data)).from_buffer_copy(data))
            elif p.scalar:
                slots.append(self._scalar(p.type, rest.pop(0)))
            else:
                slots.append(rest.pop(0))
        return slots

    def _scalar(self, kind: str, value: Any) -> Any:
        ctype, python = _SCALARS[kind]
        return ctype(python(np.asarray(value).reshape(())))
