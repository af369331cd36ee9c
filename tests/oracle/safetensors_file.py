"""Reading and writing safetensors files with numpy, bf16 included.

Two writers' habits are reproduced: `hf` (header padded to 8 bytes, tensors by falling dtype size,
then name) and `mlx` (no padding, tensors in hash order, data at an odd file offset).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Array = np.ndarray
_NUMPY_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "F16": "<f2",
    "BF16": "<u2",  # bit patterns
    "U8": "u1",
    "F8_E4M3": "u1",  # bit patterns
    "I64": "<i8",
}


@dataclass(frozen=True)
class Stored:
    """One tensor as it lies in a file; BF16 data are uint16 bit patterns."""

    dtype: str
    data: Array


def encode(values: Array, dtype: str) -> Stored:
    """float32 values as `dtype` (BF16: round to nearest even)."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype != "BF16":
        return Stored(dtype, values.astype(_NUMPY_TYPES[dtype]))
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    return Stored(dtype, rounded.astype(np.uint16))


def decode(tensor: Stored) -> Array:
    """The tensor's values: float32 for floats (exact), else the integers."""
    if tensor.dtype == "BF16":
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    is_float = tensor.dtype in ("F16", "F32", "F64")
    return tensor.data.astype(np.float32) if is_float else tensor.data


def write(path: Path, tensors: dict[str, Stored], writer: str) -> None:
    """Write one file in the habit of `writer` ("hf" or "mlx")."""
    if writer == "mlx":
        names = sorted(tensors, key=lambda name: hashlib.sha256(name.encode()).digest())
    else:
        names = sorted(tensors, key=lambda name: (-tensors[name].data.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "mlx" if writer == "mlx" else "pt"}}
    offset = 0
    for name in names:
        data = tensors[name].data
        span = [offset, offset + data.nbytes]
        header[name] = {
            "dtype": tensors[name].dtype,
            "shape": list(data.shape),
            "data_offsets": span,
        }
        offset += data.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if writer == "hf" else 1 - len(text) % 2)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name].data).data)


def read(path: Path) -> dict[str, Stored]:
    """Every tensor of one well-formed file."""
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:start])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, _ = entry["data_offsets"]
        count, kind = math.prod(entry["shape"]), _NUMPY_TYPES[entry["dtype"]]
        data = np.frombuffer(blob, kind, count, start + begin).reshape(entry["shape"])
        tensors[name] = Stored(entry["dtype"], data)
    return tensors
