"""Packs a checkpoint: dense tensors in one file, the experts of each layer in aligned records.

Every file is written under another name, synced, read back, and only then given its name. So a run
that is killed at any moment leaves complete files and at most one part of a file; the same call
again goes on behind the complete ones, and ends with the same bytes as an undisturbed run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import holes
from ..checkpoint import Checkpoint, open_checkpoint, read_json
from ..durable import alone, claim, existing_parent, require_space, write_json
from ..errors import FormatError
from ..families import build_spec
from ..gguf.contents import is_gguf
from ..lookalikes import CLAIMS, REPLACED_NAME
from ..packed import dense_header, is_packed, layer_header
from ..safetensors_header import read_header
from ..spec import Experts, Range, Spec
from . import beside, dense, pieces, punch
from .beside import Progress, errors_of_ours, silent
from .in_order import in_order
from .sources import SourceFiles

__all__ = ["pack", "verify"]

CLAIM_NAME = CLAIMS["pack"]
DENSE_NAME = "dense.safetensors"
DENSE_PIECE_BYTES = 16 << 20
READERS = 4  # threads that gather records


@dataclass(frozen=True)
class _Job:
    """One file of the packed folder and how it is made."""

    path: Path
    header: Callable[[str], bytes]
    pieces: Callable[[], Iterator[memoryview]]
    n_pieces: int
    nbytes: int
    frees: Callable[[], Iterator[Range]]


def pack(source: Path, target: Path, *, replace: bool = False, progress: Progress = silent) -> Path:
    """Writes `target`, a self-contained packed folder; goes on where an earlier run stopped.

    Args:
        source: a checkpoint folder, or any of a model's GGUF files.
        target: a new folder, or one of an interrupted run from the same source.
        replace: free each range of the source as soon as its copy has been read back. The source
            is no checkpoint any more from the first range on, and cannot be had back.
        progress: asked for a callback for writing and one for reading back.

    Returns:
        The target.

    Raises:
        FormatError: the source is no checkpoint with experts, the target holds something else, or
            `replace` would empty files that other folders use.
        IoError: the disk is short (nothing is written then), cannot free ranges, or fails.
    """
    if is_gguf(source) and replace:
        raise FormatError(f"[pack] --replace: expected a checkpoint folder, found a GGUF file "
                          f"({source})")  # fmt: skip
    with errors_of_ours("pack", target):
        return _pack(source, target, replace, progress)


def verify(folder: Path, progress: Progress = silent) -> None:
    """Reads all packed files and compares every piece with its checksum.

    Raises:
        FormatError: a piece differs, or there is nothing packed in the folder.
        IoError: a file cannot be read.
    """
    with errors_of_ours("pack", folder):
        checkpoint = open_checkpoint(folder)
        packed = [file for file in checkpoint.files if is_packed(read_header(file, 0)[1])]
        if not packed:
            raise FormatError(f"[pack] expected a packed checkpoint, found none ({folder})")
        report = progress("verified", sum(file.stat().st_size for file in packed))
        for file in packed:
            pieces.verify(file, report)


def _pack(source: Path, target: Path, replace: bool, progress: Progress) -> Path:
    goes_on = _is_replaced_by(source, target)
    checkpoint = open_checkpoint(source, allow_replaced=goes_on)
    if not goes_on:
        holes.refuse(checkpoint)
    spec = build_spec(checkpoint)
    if not spec.moes:
        raise FormatError(f"[pack] expected a model with experts, found none ({source})")
    # Of a source that is freed in part nothing can be computed any more.
    weights = read_json(target / CLAIM_NAME).get("weights") if goes_on else None
    note = beside.identity(source, checkpoint, weights)
    files = [file.resolve() for file in checkpoint.files]
    if replace:
        punch.require_unshared(source, checkpoint.files)
        punch.require_support(files)
    source_files = SourceFiles(files, "pack")
    try:
        jobs = [_dense_job(target, spec, source_files)]
        jobs += [_layer_job(target, n, moe.experts, source_files)
                 for n, moe in enumerate(spec.moes)]  # fmt: skip
        missing = {job.path: job.nbytes for job in jobs if not job.path.exists()}
        need = sum(missing.values())
        if replace and _share_a_disk(files, target):
            # A layer's room is there again before the next one is written.
            first, *others = [*missing.values(), 0]
            need = first + max(others, default=0)
        require_space(target, need, "pack", missing)
        with alone(target, "pack"):
            claim(target, CLAIM_NAME, note, "pack", "checkpoint")
            _write(jobs, source, target, files, replace, goes_on, progress)
            if not (target / "config.json").exists():
                beside.write_small(source, target, [job.path.name for job in jobs])
                _write_config(source, target, checkpoint)
    finally:
        source_files.close()
    build_spec(open_checkpoint(target))  # what was written means what was read
    return target


def _write(
    jobs: list[_Job], source: Path, target: Path, files: list[Path], replace: bool, goes_on: bool,
    progress: Progress,
) -> None:  # fmt: skip
    """The files of all jobs, of a source's files."""
    wrote, verified = (progress(what, sum(job.nbytes for job in jobs))
                       for what in ("packed", "verified"))  # fmt: skip
    for job in jobs:
        if job.path.exists():
            _check_done(job)
            wrote(job.nbytes)
            pieces.verify(job.path, verified)
        elif goes_on and punch.are_free(files, job.frees()):
            raise FormatError(f"[pack] expected a file of an earlier run, found none; what it "
                              f"held is lost: its source is freed ({job.path})")  # fmt: skip
        else:
            pieces.write(job.path, job.header, job.pieces(), job.n_pieces, wrote, verified)
        if replace:
            _mark_replaced(source, target)
            punch.free(files, job.frees())


def _dense_job(target: Path, spec: Spec, files: SourceFiles) -> _Job:
    tensors = [dense.written(tensor) for tensor in spec.resident]
    blocks = {t.name: t.blocks for t in spec.resident if t.blocks}
    entries = [tensor.entry for tensor in tensors]
    nbytes = sum(entry.nbytes for entry in entries)
    return _Job(
        target / DENSE_NAME,
        lambda checksums: dense_header(entries, blocks, DENSE_PIECE_BYTES, checksums),
        lambda: dense.pieces(tensors, files, DENSE_PIECE_BYTES),
        -(-nbytes // DENSE_PIECE_BYTES),
        nbytes,
        lambda: (place for tensor in tensors for place in tensor.ranges),
    )


def _layer_job(target: Path, number: int, experts: Experts, files: SourceFiles) -> _Job:
    n_experts, parts = experts.n_experts, list(experts.parts)
    return _Job(
        target / f"experts-{number:05d}.safetensors",
        lambda checksums: layer_header(parts, n_experts, checksums),
        lambda: _records(experts, files),
        n_experts,
        n_experts * experts.record_bytes,
        lambda: (place for e in range(n_experts) for _, place in experts.ranges(e)),
    )


def _records(experts: Experts, files: SourceFiles) -> Iterator[memoryview]:
    """Records in order, gathered by a few threads that read ahead."""

    def gather(expert: int) -> memoryview:
        record = memoryview(bytearray(experts.record_bytes))
        for part, place in experts.ranges(expert):
            files.read(place, record[part.offset : part.offset + part.nbytes])
        return record

    return in_order(gather, range(experts.n_experts), READERS)


def _check_done(job: _Job) -> None:
    """A file of the final name is complete; that it is one of this pack can be seen cheaply."""
    _, metadata = read_header(job.path, 0)
    expected = job.header(metadata.get("crc32", ""))
    with job.path.open("rb") as stream:
        found = stream.read(len(expected))
    if found != expected:
        raise FormatError(f"[pack] expected a file of this checkpoint's pack, found another; "
                          f"remove it and run again ({job.path})")  # fmt: skip


def _is_replaced_by(source: Path, target: Path) -> bool:
    """Whether the holes in the source are those of earlier runs into this target."""
    note, claim = source / REPLACED_NAME, target / CLAIM_NAME
    if not note.exists() or not claim.exists():
        return False
    return read_json(note).get("packed_into") == os.path.realpath(target)


def _share_a_disk(files: list[Path], target: Path) -> bool:
    """Whether room that is freed in the files is room for the target."""
    return {path.stat().st_dev for path in (*files, existing_parent(target))} == {
        files[0].stat().st_dev
    }


def _mark_replaced(source: Path, target: Path) -> None:
    if not (source / REPLACED_NAME).exists():
        write_json(source / REPLACED_NAME, {"packed_into": os.path.realpath(target)}, indent=1)


def _write_config(source: Path, target: Path, checkpoint: Checkpoint) -> None:
    if is_gguf(source):
        write_json(target / "config.json", checkpoint.config, indent=1)
    else:
        beside.copy(source / "config.json", target / "config.json")
