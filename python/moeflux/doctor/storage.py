"""How fast this machine's disk and memory deliver: the two rates that bound a streaming engine."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from .. import _core
from ..errors import IoError

RECORD_BYTES = 1_769_472  # an expert of Qwen3.6-35B-A3B in 4 bits
READ_THREADS = 8  # as many reads in flight as the expert store keeps
FILE_BYTES = 144 * RECORD_BYTES  # 255 MB: beyond the caches of controllers, written in a second
COPY_BYTES = 256 << 20  # beyond every last-level cache
SECONDS = 1.0  # of reads
COPY_SECONDS = 0.3
# macOS: instead of direct reads with their alignment, a file that the page cache passes over.
NO_CACHE: int | None = getattr(fcntl, "F_NOCACHE", None)


@dataclass(frozen=True)
class Rate:
    """Bytes moved in a time; `how` says by what means."""

    nbytes: int
    seconds: float
    how: str

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes a second."""
        return self.nbytes / self.seconds / 1e9


def measure_disk(folder: Path, seconds: float, file_bytes: int) -> Rate:
    """Reads whole experts at random places of a temporary file in `folder`, past the page cache.

    Raises:
        IoError: the file cannot be written or read.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".moeflux-doctor-") as file:
            _fill(file.file, file_bytes)
            rate = _core.measure_reads(file.name, RECORD_BYTES, READ_THREADS, seconds)
    except OSError as error:
        raise IoError(f"[doctor] cannot measure the disk: {error.strerror or error}") from error
    uncached = rate["direct"] or NO_CACHE is not None
    how = "past the page cache" if uncached else "through the page cache: not the disk's own rate"
    return Rate(rate["bytes"], rate["seconds"], how)


def _fill(file: IO[bytes], nbytes: int) -> None:
    """Random bytes, so that no file system compresses them away."""
    if NO_CACHE is not None:
        fcntl.fcntl(file, NO_CACHE, 1)  # pages that are never cached need no eviction
    random = np.random.default_rng(1)
    for begin in range(0, nbytes, 1 << 23):
        file.write(random.bytes(min(1 << 23, nbytes - begin)))
    file.flush()
    os.fsync(file.fileno())


def measure_memory(seconds: float, nbytes: int) -> Rate:
    """Copies on every core at once; counts the bytes read and the bytes written."""
    threads = os.cpu_count() or 1
    blocks = [np.ones((2, nbytes // 16 // threads)) for _ in range(threads)]
    end = time.perf_counter() + seconds

    def copy(block: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> int:
        n_copies = 0
        while n_copies == 0 or time.perf_counter() < end:
            np.copyto(block[0], block[1])
            n_copies += 1
        return n_copies * block.nbytes

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        moved = sum(pool.map(copy, blocks))
    return Rate(moved, time.perf_counter() - begin, f"copy on {threads} threads, read + written")
