"""Converts a checkpoint to MLX's affine codes: any source that loads, a matrix at a time.

Every file is written under another name, read back from disk, and only then given its name. So a
run that is killed at any moment leaves complete files and at most one part of a file; the same call
again goes on behind the complete ones, and ends with the same bytes as an undisturbed run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .. import holes
from ..arguments import PATH, check, instance, integer, optional
from ..checkpoint import open_checkpoint
from ..durable import alone, claim, require_space, write_json
from ..errors import FormatError
from ..families import build_spec
from ..gguf import vocabulary
from ..gguf.contents import is_gguf
from ..lookalikes import CLAIMS
from ..packing import beside
from ..packing.beside import Progress, errors_of_ours, silent
from . import about, config, finished, shards, transposed
from .pieces import narrowed
from .plan import Plan
from .rows import memory_bytes
from .settings import Settings

DEFAULTS = Settings()
__all__ = ["Settings", "convert"]

CLAIM_NAME = CLAIMS["convert"]
SHARD_BYTES = 1 << 30  # at most this much work is lost with a run that is cut
MAX_THREADS = 256
WORK_BYTES = 512 << 20  # of all threads together
_ARGUMENTS = {
    "source": PATH,
    "target": PATH,
    "settings": instance("moeflux.converting.Settings", Settings),
    "threads": optional(integer(1, MAX_THREADS)),
}


def convert(
    source: Path | str, target: Path | str, settings: Settings = DEFAULTS, *,
    threads: int | None = None, progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:  # fmt: skip
    """Writes `target`, a checkpoint in MLX's layout; goes on where an earlier run stopped.

    Args:
        source: a checkpoint folder, or any of a model's GGUF files. Nothing is written to it.
        target: a new folder, or one of an interrupted run from the same source and settings.
        settings: bits and groups.
        threads: that compute; as many as this process may use where None.
        progress: asked for a callback for writing and one for reading back.
        tell: gets lines about what is going to be written, before the work.

    Returns:
        The target.

    Raises:
        FormatError: the source is no checkpoint or has numbers that cannot be written (infinite, or
            too large for the dtype), the target holds something else, a rule fits nothing, or an
            argument is not what is said here.
        IoError: the disk is short (nothing is written then) or fails.
    """
    check("convert", FormatError, _ARGUMENTS, locals())
    with errors_of_ours("convert", Path(target)):
        return _convert(
            Path(source), Path(target), settings, threads or _processors(), progress, tell
        )


def _convert(
    source: Path, target: Path, settings: Settings, threads: int, progress: Progress,
    tell: Callable[[str], None],
) -> Path:  # fmt: skip
    checkpoint = open_checkpoint(source)
    holes.refuse(checkpoint)
    if is_gguf(source):
        vocabulary.read(source)  # what has no tokenizer is refused before hours of work
    note = beside.identity(source, checkpoint) | settings.note()
    checkpoint, source_files = transposed.opened(checkpoint)
    try:
        plan = Plan(checkpoint, build_spec(checkpoint), settings)
        items = [narrowed(item, plan.dtype, source_files) for item in plan.items]
        files = shards.cut(items, target, SHARD_BYTES)
        said = config.of_source(checkpoint.config, plan.quantization, is_gguf(source))
        build_spec(shards.written(files, target, said))  # what would not load is not written
        missing = {shard.path: shard.nbytes for shard in files if not shard.path.exists()}
        require_space(target, sum(missing.values()), "convert", missing)
        least = memory_bytes(item.rows.shape.columns * item.rows.unit for item in items)
        threads = max(1, min(threads, (WORK_BYTES - source_files.held_bytes) // least))
        with alone(target, "convert"):
            claim(target, CLAIM_NAME, note, "convert", "conversion", finished.KEY)
            for line in about.lines(items, settings):
                tell(line)
            wrote, verified = (progress(what, sum(shard.nbytes for shard in files))
                               for what in ("converted", "verified"))  # fmt: skip
            for shard in files:
                if shard.path.exists():
                    shards.check_done(shard, target / CLAIM_NAME, verified)
                    wrote(shard.nbytes)
                else:
                    shards.write(shard, checkpoint, source_files, threads, wrote, verified,
                                 target / CLAIM_NAME)  # fmt: skip
            if not (target / "config.json").exists():
                beside.write_small(source, target, [shard.path.name for shard in files])
                write_json(target / "config.json", said, indent=1)
    finally:
        source_files.close()
    build_spec(open_checkpoint(target))
    return target


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
