"""What goes with the weights of a folder that is made of another checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint import INDEX_NAME, Checkpoint
from ..durable import whole_file, write_json
from ..errors import IoError
from ..gguf.contents import is_gguf
from ..identity import of_weights
from ..lookalikes import CLAIMS, REPLACED_NAME
from ..packed import expand
from ..safetensors_header import read_header
from . import of_gguf

_COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
# What others note of the source's weights, by which their loaders would read those of the target.
_ABOUT_WEIGHTS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_NOT_COPIED = {REPLACED_NAME, "config.json", *_ABOUT_WEIGHTS, *CLAIMS.values()}
_INDEX = ".index.json"  # of weights, whoever has written them
Report = Callable[[int], None]
Progress = Callable[[str, int], Report]


def silent(what: str, total: int) -> Report:
    """The progress of nobody."""
    return lambda nbytes: None


@contextmanager
def errors_of_ours(tag: str, folder: Path) -> Iterator[None]:
    """The system's errors become IoErrors of the command's."""
    try:
        yield
    except OSError as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[{tag}] {error.strerror} ({error.filename or folder})") from error


def identity(source: Path, checkpoint: Checkpoint, weights: str | None = None) -> dict[str, Any]:
    """What makes two runs write the same bytes, as far as a look at some of the weights tells.

    `weights` is the digest of the source's, where it cannot be had any more.
    """
    return {
        "version": 1,
        "config_sha256": hashlib.sha256(_config_bytes(source, checkpoint)).hexdigest(),
        "files": {file.name: file.stat().st_size for file in checkpoint.files},
        "weights": weights or of_weights(checkpoint, checkpoint.config),
    }


def _config_bytes(source: Path, checkpoint: Checkpoint) -> bytes:
    if is_gguf(source):
        return json.dumps(checkpoint.config, sort_keys=True).encode()
    return (source / "config.json").read_bytes()


def write_small(source: Path, target: Path, written: list[str]) -> None:
    """What is beside the files of weights that were `written`, but for the config.

    That comes behind it: a folder that has one is whole.
    """
    if is_gguf(source):
        of_gguf.write_small(source, target)
    else:
        copy_small(source, target)
    write_index(target, written)


def copy_small(source: Path, target: Path) -> None:
    """Tokenizer, template, licence."""
    for pattern in _COPIED:
        for file in sorted(source.glob(pattern)):
            is_ours = file.name in _NOT_COPIED or file.name.endswith(_INDEX)
            if not is_ours and file.is_file():
                copy(file, target / file.name)


def copy(file: Path, to: Path) -> None:
    """A copy, whole or absent."""
    with file.open("rb") as stream, whole_file(to) as out:
        shutil.copyfileobj(stream, out)


def write_index(target: Path, written: list[str]) -> None:
    """The index of files of the target."""
    weight_map: dict[str, str] = {}
    total = 0
    for name in written:
        stored, metadata = read_header(target / name, 0)
        expanded = expand(stored, metadata, target / name)
        weight_map |= dict.fromkeys(expanded, name)
        total += sum(tensor.nbytes for tensor in expanded.values())
    write_json(target / INDEX_NAME, {"metadata": {"total_size": total},
                                     "weight_map": dict(sorted(weight_map.items()))})  # fmt: skip
