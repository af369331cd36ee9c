"""`Buffer`: a typed array in the memory of a device. Knows dtypes and shapes, and no kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ..arguments import is_integer, listed, show
from ..errors import FormatError
from .device import Device

# The numpy dtype that holds each type of the shaders; bf16 is kept as its bit pattern.
DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "i32": np.dtype(np.int32),
    "u8": np.dtype(np.uint8),
}
_SUPPORTED = frozenset(DTYPES.values())
Shape = int | Sequence[int]


class Buffer:
    """Memory that a kernel reads or writes, zero-filled when it is made.

    Args:
        backend: the `Backend` whose kernels will use it; no other accepts it.
        shape: elements, an int or one per dimension; at least one element in all.
        dtype: float32, float16, uint32, int32, uint8, or uint16 (which holds bf16 bit patterns).

    Raises:
        FormatError: a dtype or shape that no buffer can have.
        GpuError: the device has no room for it, or its limit for one buffer is smaller.

    Example:
        >>> x = Buffer.from_array(backend, np.arange(8, dtype=np.float32))
        >>> x.numpy()[3]
        np.float32(3.0)
    """

    def __init__(self, backend: Device, shape: Shape, dtype: npt.DTypeLike = np.float32) -> None:
        self._describe(backend, shape, dtype)
        self._native = _core.NativeBuffer(backend._native, self.nbytes)

    @classmethod
    def from_array(cls, backend: Device, array: npt.ArrayLike) -> Buffer:
        """A copy of an array; its dtype is kept, and must be one that a buffer can have."""
        try:
            source = np.asarray(array)
        except ValueError:  # lists of different lengths
            raise FormatError(f"[backend::Buffer] array: expected numbers in rows of one length, "
                              f"found {show(array)}") from None  # fmt: skip
        buffer = cls(backend, source.shape, source.dtype)
        buffer.numpy()[...] = source
        return buffer

    @classmethod
    def zeros(cls, backend: Device, shape: Shape, dtype: npt.DTypeLike = np.float32) -> Buffer:
        """The same as the constructor, under numpy's name."""
        return cls(backend, shape, dtype)

    @classmethod
    def empty(cls, backend: Device, shape: Shape, dtype: npt.DTypeLike = np.float32) -> Buffer:
        """As `zeros`: a device hands out no memory that holds somebody's old data."""
        return cls(backend, shape, dtype)

    @classmethod
    def wrap(cls, backend: Device, array: npt.NDArray[Any]) -> Buffer:
        """The memory of an array itself, without a copy: of `numpy.memmap`, or of an `mmap`.

        The array is kept while the device may read it. What shares its memory sees what kernels
        write. Read-only memory is refused where a kernel writes.

        Args:
            backend: as for the constructor.
            array: contiguous, of a dtype that a buffer can have, its address and size multiples of
                the device's `page_bytes`.

        Raises:
            FormatError: an array that is not so.
            GpuError: the device cannot use it in place.
        """
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or array.size == 0:
            raise FormatError(f"[backend::Buffer] array: expected a contiguous array of elements, "
                              f"found {show(array)}")  # fmt: skip
        buffer = cls._of(backend, array.shape, array.dtype)
        buffer.read_only = not array.flags.writeable
        buffer._native = _core.NativeBuffer(backend._native, array.view(np.uint8))
        return buffer

    @classmethod
    def _of(cls, backend: Device, shape: Shape, dtype: npt.DTypeLike) -> Buffer:
        """All but the memory."""
        buffer = cls.__new__(cls)
        buffer._describe(backend, shape, dtype)
        return buffer

    def _describe(self, backend: Device, shape: Shape, dtype: npt.DTypeLike) -> None:
        if not isinstance(getattr(backend, "_native", None), _core.NativeDevice):
            raise FormatError(f"[backend::Buffer] backend: expected a Backend, found "
                              f"{show(backend)}")  # fmt: skip
        self.backend = backend
        self.dtype = _checked_dtype(dtype)
        self.shape = _checked_shape(shape)
        self.offset = 0  # in bytes, of a part of another buffer's memory
        self.read_only = False

    def __getitem__(self, index: int | slice) -> Buffer:
        """Part of this buffer along its first dimension, in the same memory: `buffer[k]`, `[a:b]`.

        What a kernel is given must start at a multiple of its type's size; it reaches no further
        than the part.

        Raises:
            FormatError: an index outside, an empty part, or steps.
        """
        rows = range(self.shape[0])
        try:
            picked = rows[index]
        except (IndexError, TypeError, ValueError):
            picked = range(0)
        if isinstance(picked, int):
            first, shape = picked, self.shape[1:] or (1,)
        else:
            first, shape = picked.start, (len(picked), *self.shape[1:])
        if isinstance(picked, range) and (not picked or picked.step != 1):
            raise FormatError(f"[backend::Buffer] index: expected a run of {len(rows)} elements, "
                              f"found {show(index)}")  # fmt: skip
        part = self._of(self.backend, shape, self.dtype)
        part._native, part.read_only = self._native, self.read_only
        part.offset = self.offset + first * (self.nbytes // len(rows))
        return part

    def __dlpack__(self, **options: Any) -> Any:
        """For `from_dlpack` of numpy, Torch and others: `numpy()`, as memory of the CPU."""
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, Any]:
        """The CPU, which shares the device's memory."""
        return np.zeros(0).__dlpack_device__()

    def numpy(self) -> npt.NDArray[Any]:
        """Waits for the commands that write this buffer, then shows its memory without a copy.

        The view keeps the memory alive, and writing to it writes the buffer. While a later command
        is in flight its contents are undefined; after that command's `wait()` it is valid again.

        Raises:
            GpuError: a command that writes it failed (raised once), or the memory is out of reach
                of the CPU.
        """
        self._native.wait()
        memory = memoryview(self._native)
        array = np.frombuffer(memory, self.dtype, len(self), self.offset).reshape(self.shape)
        array.flags.writeable = not self.read_only
        return array

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return len(self) * self.dtype.itemsize

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"<Buffer {self.dtype} {self.shape} on {self.backend.kind}>"


def _checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except Exception:  # numpy raises TypeError, ValueError and SyntaxError
        raise FormatError(f"[backend::Buffer] dtype: expected a dtype, found "
                          f"{show(dtype)}") from None  # fmt: skip
    if found not in _SUPPORTED:
        names = ", ".join(sorted(str(supported) for supported in _SUPPORTED))
        raise FormatError(f"[backend::Buffer] dtype: expected {names}, found {found}")
    return found


def _checked_shape(shape: Shape) -> tuple[int, ...]:
    found: list[Any] = [shape]
    if not is_integer(shape):
        found = listed("backend::Buffer", FormatError, "shape", "integers", shape)
    if not all(map(is_integer, found)):
        raise FormatError(f"[backend::Buffer] shape: expected integers, found {show(found)}")
    dims = tuple(map(int, found))
    # 2^48 elements pass every machine's memory, and no product below overflows 64 bits.
    if any(dim < 1 for dim in dims) or math.prod(dims) > 1 << 48:
        raise FormatError(f"[backend::Buffer] shape: expected 1 to 2^48 elements, found "
                          f"{show(dims)}")  # fmt: skip
    return dims
