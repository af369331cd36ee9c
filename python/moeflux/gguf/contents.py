"""A GGUF file as a checkpoint: the config of its family, and its tensors by the hub's names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import formats
from ..safetensors_header import Tensor, fail
from .archs import TOP
from .config import Keys, config
from .header import Entry, Header
from .splits import read_all
from .types import NUMBERS

# Tensors of what Ollama and others keep in the same file: towers for images and sound.
_OTHER_PARTS = ("v.", "mm.", "a.")
_LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)")


@dataclass(frozen=True)
class Contents:
    """What `checkpoint.open_checkpoint` makes a checkpoint of."""

    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, Tensor]


def is_gguf(path: Path) -> bool:
    """Whether a path that a person typed is the name of a GGUF file."""
    return path.suffix.lower() == ".gguf"


def read(path: Path) -> Contents:
    """Heads of a model's files, given any of them.

    Raises:
        IoError: a file is missing or cannot be read.
        FormatError: a file contradicts itself or another, or needs what the engine does not do.
    """
    return contents(read_all(path))


def contents(headers: list[Header]) -> Contents:
    """The model of all of its files' heads."""
    first = headers[0]
    keys = Keys(first.metadata, first.path)
    entries = {entry.name: entry for header in headers for entry in header.entries}
    embedding = entries.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise fail("gguf", "expected a matrix token_embd.weight, found none", first.path)
    said = config(keys, entries.keys(), embedding.shape[0])
    tensors = {}
    for number, header in enumerate(headers):
        for entry in header.entries:
            name = _hub_name(entry.name, keys, header.path)
            tensor = _tensor(entry, name or entry.name, number)
            if name is not None:
                _check_type(entry, header.path)
            if tensor.name in tensors:
                raise fail("gguf", f"expected one tensor for {tensor.name}, found {entry.name!r}, "
                           "too", header.path)  # fmt: skip
            tensors[tensor.name] = tensor
    return Contents(said, tuple(header.path for header in headers), tensors)


def _hub_name(name: str, keys: Keys, path: Path) -> str | None:
    """What the family calls a tensor; None where a text needs it not."""
    if name.startswith(_OTHER_PARTS):
        return None
    found = _LAYER.fullmatch(name)
    if found and int(found[1]) >= keys.n_layers:  # it predicts further tokens
        return None
    part, table = (found[2], keys.arch.tensors) if found else (name, TOP)
    prefix = f"model.layers.{int(found[1])}." if found else ""
    module, _, suffix = part.rpartition(".")
    if part in table:
        return prefix + table[part]
    if module not in table or suffix not in ("weight", "bias"):
        raise fail("gguf", f"expected no tensor that {keys.name} has no place for, found {name!r}",
                   path)  # fmt: skip
    return f"{prefix}{table[module]}.{suffix}"


def _tensor(entry: Entry, name: str, file: int) -> Tensor:
    kind, shape = entry.type, entry.shape
    if kind.name in NUMBERS:
        return Tensor(name, file, entry.offset, entry.nbytes, kind.name, shape)
    row_bytes = shape[-1] // kind.columns * kind.nbytes
    return Tensor(name, file, entry.offset, entry.nbytes, "U8", (*shape[:-1], row_bytes),
                  blocks=kind.name.lower())  # fmt: skip


def _check_type(entry: Entry, path: Path) -> None:
    """Refuses a type that no kernel computes with."""
    known = [name.upper() for name in (*formats.PLAIN, *formats.BLOCKS)]
    if entry.type.name not in known:
        raise fail("gguf", f"tensor {entry.name} of type {entry.type.name}: not supported; "
                   f"expected {', '.join(known)}", path)  # fmt: skip
