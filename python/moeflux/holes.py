"""Weights that are not there although their file has its full size: holes, which read as zeros.

`pack --replace` frees ranges of its source like that, and other names of the same file cannot know;
a download that reserves its room and breaks off looks the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .checkpoint import Checkpoint
from .safetensors_header import Tensor, fail

_CODES = "U32"  # dtype of MLX's packed codes
# Without them (Windows) no hole is seen.
_SEEK_DATA: int | None = getattr(os, "SEEK_DATA", None)
_SEEK_HOLE: int | None = getattr(os, "SEEK_HOLE", None)


def refuse(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint in which a matrix, or a stack of them, lies in a hole as a whole.

    A smaller hole may be right: some programs and file systems keep long runs of zeros as holes.
    So may zeros in vectors, and in codes and biases of quantised matrices, whose scales are looked
    at. Costs a call of the system for each file, and one for each matrix of a file with holes.

    Raises:
        FormatError: there is one; the message names tensor and file.
    """
    for number, file in enumerate(checkpoint.files):
        tensors = (t for t in checkpoint.tensors.values() if t.file == number)
        for tensor in _in_holes(file, filter(_is_looked_at, tensors)):
            raise fail("checkpoint", f"expected data for tensor {tensor.name!r}, found a hole: "
                       "never written, or freed since; copy or download it again",
                       file)  # fmt: skip


def _is_looked_at(tensor: Tensor) -> bool:
    is_matrix = len(tensor.shape) > 1 and tensor.nbytes > 0
    return is_matrix and tensor.dtype != _CODES and not tensor.name.endswith(".biases")


def _in_holes(file: Path, tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    with contextlib.suppress(OSError), file.open("rb", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        if _SEEK_HOLE is None or stream.seek(0, _SEEK_HOLE) == size:
            return
        for tensor in tensors:
            slices = tensor.shape[0] if tensor.stride else 1
            last = tensor.offset + (slices - 1) * tensor.stride
            if is_hole(stream.fileno(), tensor.offset, last + tensor.nbytes // slices):
                yield tensor


def is_hole(descriptor: int, begin: int, end: int) -> bool:
    """Whether all whole blocks in begin..end of a file are holes, and there is one.

    Blocks that are there in part cannot be given back: they keep zeros.
    """
    block = os.fstat(descriptor).st_blksize
    begin, end = -(-begin // block) * block, end // block * block
    if _SEEK_DATA is None or begin >= end:
        return False
    try:
        return os.lseek(descriptor, begin, _SEEK_DATA) >= end
    except OSError as error:
        return error.errno == errno.ENXIO  # no data from here to the file's end
