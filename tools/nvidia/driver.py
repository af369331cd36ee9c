"""libcuda by ctypes: a device, its memory, modules, launches and graphs of launches."""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
LAUNCH = C.c_uint32 * 4  # Launch of emit_cuda: first, full, groups, grid


class CudaError(Exception):
    """The driver refused a call, or a kernel faulted."""


class NoGpuError(CudaError):
    """This machine has no NVIDIA GPU that the driver can use."""


class Device:
    """The first GPU, with a context and a stream of its own."""

    def __init__(self) -> None:
        try:
            self.cuda = C.CDLL("libcuda.so.1")
        except OSError as error:
            raise NoGpuError(f"no NVIDIA driver: {error}") from None
        device = C.c_int()
        for status in (self.cuda.cuInit(0), self.cuda.cuDeviceGet(C.byref(device), 0)):
            if status:
                raise NoGpuError(f"no NVIDIA GPU: {self._name(status)}")
        name = C.create_string_buffer(100)
        self.call("cuDeviceGetName", name, 100, device)
        numbers = [C.c_int() for _ in _CAPABILITY]
        for number, attribute in zip(numbers, _CAPABILITY, strict=True):
            self.call("cuDeviceGetAttribute", C.byref(number), attribute, device)
        self.name = name.value.decode()
        self.arch = "sm_" + "".join(str(number.value) for number in numbers)
        self._device, self._context, self.stream = device, C.c_void_p(), C.c_void_p()
        self._open()

    def _open(self) -> None:
        self.call("cuCtxCreate_v2", C.byref(self._context), 0, self._device)
        self.call("cuStreamCreate", C.byref(self.stream), 1)  # CU_STREAM_NON_BLOCKING

    def reset(self) -> None:
        """A new context: after a fault nothing of the old one can be used."""
        self.cuda.cuCtxDestroy_v2(self._context)
        self._open()

    def call(self, function: str, *args: Any) -> None:
        """Calls the driver. Raises CudaError."""
        status = getattr(self.cuda, function)(*args)
        if status:
            raise CudaError(f"{function}: {self._name(status)}")

    def _name(self, status: int) -> str:
        text = C.c_char_p()
        self.cuda.cuGetErrorName(status, C.byref(text))
        return (text.value or b"?").decode()

    # -- memory

    def allocate(self, nbytes: int) -> C.c_uint64:
        """Memory of the device, 16 bytes or more."""
        address = C.c_uint64()
        self.call("cuMemAlloc_v2", C.byref(address), C.c_size_t(max(nbytes, 16)))
        return address

    def upload(self, array: np.ndarray) -> C.c_uint64:
        """A copy of `array` on the device."""
        address = self.allocate(array.nbytes)
        self.write(address.value, array)
        return address

    def addresses(self, buffers: Sequence[tuple[int, int]]) -> C.c_uint64:
        """A list of buffers, (address, bytes) each, as Device::addresses makes one."""
        return self.upload(np.array(buffers, np.uint64))

    def write(self, address: int, array: np.ndarray) -> None:
        """Overwrites memory with `array`."""
        array = np.ascontiguousarray(array)
        source = C.c_void_p(array.ctypes.data)
        self.call("cuMemcpyHtoD_v2", C.c_uint64(address), source, C.c_size_t(array.nbytes))

    def read(self, address: C.c_uint64, like: np.ndarray) -> np.ndarray:
        """What is in memory, in an array of `like`'s shape and type."""
        out = np.empty_like(like)
        self.call("cuMemcpyDtoH_v2", C.c_void_p(out.ctypes.data), address, C.c_size_t(out.nbytes))
        return out

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Copies memory of the device."""
        self.call("cuMemcpyDtoD_v2", C.c_uint64(to), C.c_uint64(source), C.c_size_t(nbytes))

    def free(self, address: C.c_uint64) -> None:
        """Gives memory back."""
        self.call("cuMemFree_v2", address)

    # -- kernels

    def function(self, image: bytes, kernel: str) -> C.c_void_p:
        """The kernel of a module."""
        module, function = C.c_void_p(), C.c_void_p()
        self.call("cuModuleLoadData", C.byref(module), image)
        self.call("cuModuleGetFunction", C.byref(function), module, f"run_{kernel}".encode())
        return function

    def registers(self, function: C.c_void_p) -> tuple[int, int]:
        """Registers of a thread, and bytes of what did not fit there."""
        values = []
        for attribute in (4, 3):  # CU_FUNC_ATTRIBUTE_NUM_REGS, LOCAL_SIZE_BYTES
            value = C.c_int()
            self.call("cuFuncGetAttribute", C.byref(value), attribute, function)
            values.append(value.value)
        return values[0], values[1]

    def launch(self, function: C.c_void_p, args: Sequence[Any], grid: int, threads: int) -> None:
        """Queues a kernel; whole threadgroups, then a smaller one for the rest of the grid."""
        whole, rest = divmod(grid, threads)
        groups = whole + (rest > 0)
        for first, count, size in ((0, whole, threads), (whole, 1, rest)):
            if count == 0 or size == 0:
                continue
            slots = [*args, LAUNCH(first, threads, groups, grid)]
            pointers = (C.c_void_p * len(slots))(*[C.addressof(slot) for slot in slots])
            self.call(
                "cuLaunchKernel", function, count, 1, 1, size, 1, 1, 0, self.stream, pointers, None
            )

    def wait(self) -> None:
        """Until all is done. Raises CudaError where a kernel faulted."""
        self.call("cuStreamSynchronize", self.stream)

    def graph(self, record: Callable[[], None]) -> C.c_void_p:
        """What `record` launches, to be replayed without the CPU."""
        graph, executable = C.c_void_p(), C.c_void_p()
        self.call("cuStreamBeginCapture_v2", self.stream, 2)  # CU_STREAM_CAPTURE_MODE_RELAXED
        record()
        self.call("cuStreamEndCapture", self.stream, C.byref(graph))
        self.call("cuGraphInstantiateWithFlags", C.byref(executable), graph, C.c_uint64(0))
        self.call("cuGraphDestroy", graph)
        return executable

    def replay(self, graph: C.c_void_p, times: int) -> list[float]:
        """Milliseconds of each of `times` replays."""
        events = [C.c_void_p() for _ in range(times + 1)]
        for event in events:
            self.call("cuEventCreate", C.byref(event), 0)
        self.call("cuEventRecord", events[0], self.stream)
        for event in events[1:]:
            self.call("cuGraphLaunch", graph, self.stream)
            self.call("cuEventRecord", event, self.stream)
        self.wait()
        out = []
        for start, end in pairwise(events):
            milliseconds = C.c_float()
            self.call("cuEventElapsedTime", C.byref(milliseconds), start, end)
            out.append(milliseconds.value)
        for event in events:
            self.call("cuEventDestroy_v2", event)
        return out
