"""Writes the files of a conversion: pieces by several threads, read back before a file counts."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..durable import PART, new_part, publish
from ..errors import FormatError, IoError
from ..packing import read_back
from ..packing.beside import Report
from ..packing.in_order import in_order
from ..packing.sources import SourceFiles
from ..safetensors_header import Entry, Tensor, encode
from . import finished
from .pieces import Piece, entries, work
from .plan import Item

_ALIGNMENT = 64  # of the data's begin
Written = tuple[int, int, int]  # offset and bytes of a range of a file, and its CRC-32


@dataclass(frozen=True)
class Shard:
    """A file and the items in it, in order."""

    path: Path
    items: tuple[Item, ...]

    @cached_property
    def entries(self) -> list[Entry]:
        """Its tensors."""
        return [entry for item in self.items for entry in entries(item)]

    @cached_property
    def header(self) -> bytes:
        """What its data lie behind; `format` is what others' loaders ask for."""
        return encode(self.entries, {"format": "mlx"}, _ALIGNMENT)

    @property
    def nbytes(self) -> int:
        """Of all."""
        return len(self.header) + sum(entry.nbytes for entry in self.entries)


def cut(items: Sequence[Item], folder: Path, most: int) -> list[Shard]:
    """Files of about `most` bytes; an item that is larger has a file of its own."""
    groups: list[list[Item]] = []
    size = 0
    for item in items:
        nbytes = sum(entry.nbytes for entry in entries(item))
        if not groups or size + nbytes > most:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += nbytes
    n = len(groups)
    names = [f"model-{i + 1:05d}-of-{n:05d}.safetensors" if n > 1 else "model.safetensors"
             for i in range(n)]  # fmt: skip
    return [Shard(folder / name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def written(shards: Sequence[Shard], folder: Path, config: dict[str, Any]) -> Checkpoint:
    """The checkpoint that comes of these files and a config, before any is there."""
    tensors: dict[str, Tensor] = {}
    for number, shard in enumerate(shards):
        at = len(shard.header)
        for entry in shard.entries:
            tensors[entry.name] = Tensor(entry.name, number, at, entry.nbytes, entry.dtype,
                                         entry.shape)  # fmt: skip
            at += entry.nbytes
    return Checkpoint(folder, config, tuple(shard.path for shard in shards), tensors)


def check_done(shard: Shard, note: Path, verified: Report) -> None:
    """Reads a file of the final name; refuses one that this conversion has not written.

    Raises:
        FormatError: it is another one, or damaged.
        IoError: it cannot be read.
    """
    with shard.path.open("rb") as stream:
        found = stream.read(len(shard.header))
    if found != shard.header or shard.path.stat().st_size != shard.nbytes:
        raise FormatError(f"[convert] expected a file of this conversion, found another; remove it "
                          f"and run again ({shard.path})")  # fmt: skip
    finished.check(note, shard.path, verified)


def write(
    shard: Shard, checkpoint: Checkpoint, source: SourceFiles, threads: int, wrote: Report,
    verified: Report, note: Path,
) -> None:  # fmt: skip
    """Writes, syncs and reads back; only then the file is noted and gets its name.

    Raises:
        FormatError: numbers that cannot be written.
        IoError: what was read back is not what was written, or the source cannot be read.
    """
    part = shard.path.with_name(shard.path.name + PART)
    with new_part(shard.path, buffering=0) as stream:
        found = _write(stream.fileno(), shard, checkpoint, source, threads, wrote)
        os.fsync(stream.fileno())
    found.sort()
    ends = [offset + nbytes for offset, nbytes, _ in found]
    if [0, *ends[:-1]] != [offset for offset, _, _ in found] or ends[-1] != shard.nbytes:
        raise FormatError(f"[convert] expected pieces that lie one behind the other, found others "
                          f"({part})")  # fmt: skip
    whole = finished.Sum()
    read = read_back.checksums(part, 0, ends, verified, "convert", whole.add)
    for (offset, _, expected), crc in zip(found, read, strict=True):
        if crc != expected:
            raise IoError(f"[convert] the disk did not keep what was written at {offset}: expected "
                          f"checksum {expected:08x}, found {crc:08x} ({part})")  # fmt: skip
    finished.add(note, shard.path.name, whole.value)
    publish(part, shard.path)


def _write(
    descriptor: int, shard: Shard, checkpoint: Checkpoint, source: SourceFiles, threads: int,
    wrote: Report,
) -> list[Written]:  # fmt: skip
    begins: dict[str, int] = {}
    at = len(shard.header)
    for entry in shard.entries:
        begins[entry.name] = at
        at += entry.nbytes

    def put(make: Callable[[], list[Piece]]) -> list[Written]:
        return [_put(descriptor, begins[piece.tensor] + piece.offset, piece.data.data)
                for piece in make() if piece.data.size]  # fmt: skip

    found = [_put(descriptor, 0, memoryview(shard.header))]
    wrote(len(shard.header))
    jobs = (job for item in shard.items for job in work(item, checkpoint, source))
    for done in in_order(put, jobs, threads):
        found += done
        wrote(sum(nbytes for _, nbytes, _ in done))
    return found


def _put(descriptor: int, offset: int, data: memoryview) -> Written:
    done = 0
    while done < data.nbytes:
        done += os.pwrite(descriptor, data[done:], offset + done)
    return offset, data.nbytes, zlib.crc32(data)
