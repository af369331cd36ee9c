"""A GGUF file as a checkpoint: the config of its family, and its tensors by the hub's names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import files, formats
from ..safetensors_header import Tensor, fail
from .archs import Arch
from .config import arch_of, config
from .header import Entry, Header
from .keys import Keys
from .splits import read_all
from .transforms import MAX_VECTOR_BYTES
from .types import NUMBERS

# Tensors of what Ollama and others keep in the same file: towers for images and sound.
_OTHER_PARTS = ("v.", "mm.", "a.")
# Of all tensors that hold something else than what is stored: a model of 100 layers with 128 heads
# of 128 channels has 1.8 million rows.
MAX_ROWS, MAX_MADE_BYTES = 1 << 21, 256 << 20
_FUSED = ".ffn_gate_up_exps.weight"
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
    headers = read_all(path)
    return contents(headers, _numbers)


def contents(headers: list[Header], load: Callable[[Tensor, Path], Any] | None = None) -> Contents:
    """The model of all of its files' heads.

    Args:
        headers: in the order of the files.
        load: reads a vector of a file; None: what is made of them is only described.

    Raises:
        FormatError: as `read`.
    """
    first, load = headers[0], load or _unread

    def numbers(tensor: Tensor) -> Any:
        _check_vector(tensor, headers[tensor.file].path)
        return load(tensor, headers[tensor.file].path)

    keys = Keys(first.metadata, first.path)
    arch = arch_of(keys)
    entries = {entry.name: _tensor(entry, entry.name, number)
               for number, header in enumerate(headers) for entry in header.entries}  # fmt: skip
    embedding = entries.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise fail("gguf", "expected a matrix token_embd.weight, found none", first.path)

    def read_vector(name: str) -> Any:
        if name not in entries:
            return None
        return numbers(entries[name]) if load is not _unread else -numbers(entries[name])

    said = config(keys, arch, entries.keys(), embedding.shape[0], read_vector)
    tensors: dict[str, Tensor] = {}
    n_rows = made = 0
    for number, header in enumerate(headers):
        for entry in header.entries:
            for tensor in _tensors(entry, keys, arch, number, header.path):
                if tensor.name != entry.name:
                    _check_type(entry, header.path)
                    part = entry.name.partition(".")[2].partition(".")[2]
                    if transform := arch.transforms.get(part):
                        tensor = transform(tensor, keys, numbers)
                        n_rows += len(tensor.rows or ())
                        made += 0 if tensor.numbers is None else tensor.numbers.nbytes
                if n_rows > MAX_ROWS or made > MAX_MADE_BYTES:
                    raise fail("gguf", f"expected at most {MAX_ROWS} rows in another order and "
                               f"{MAX_MADE_BYTES} bytes of other numbers, found {n_rows} and "
                               f"{made} up to {entry.name!r}", header.path)  # fmt: skip
                if tensor.name in tensors:
                    raise fail("gguf", f"expected one tensor for {tensor.name}, found "
                               f"{entry.name!r}, too", header.path)  # fmt: skip
                tensors[tensor.name] = tensor
    return Contents(said, tuple(header.path for header in headers), tensors)


def _tensors(entry: Entry, keys: Keys, arch: Arch, file: int, path: Path) -> list[Tensor]:
    """The tensor by the family's name, or by its own where a text needs it not.

    One that holds gates and ups of all experts is two, whose slices lie in turns.
    """
    if not entry.name.endswith(_FUSED):
        return [_tensor(entry, _hub_name(entry.name, keys, arch, path) or entry.name, file)]
    names = [_hub_name(entry.name.replace(_FUSED, f".ffn_{part}_exps.weight"), keys, arch, path)
             for part in ("gate", "up")]  # fmt: skip
    whole = _tensor(entry, entry.name, file)
    if None in names:
        return [whole]
    if len(whole.shape) != 3 or not whole.shape[0] or whole.shape[1] % 2:
        raise fail("gguf", f"expected experts with as many rows of gates as of ups in "
                   f"{entry.name}, found shape {list(entry.shape)}", path)  # fmt: skip
    n_experts, rows, *columns = whole.shape
    stride = whole.nbytes // n_experts
    return [replace(whole, name=str(name), offset=whole.offset + begin, nbytes=whole.nbytes // 2,
                    shape=(n_experts, rows // 2, *columns), stride=stride)
            for name, begin in zip(names, (0, stride // 2), strict=True)]  # fmt: skip


def _hub_name(name: str, keys: Keys, arch: Arch, path: Path) -> str | None:
    """What the family calls a tensor; None where a text needs it not."""
    if name.startswith(_OTHER_PARTS) or name in arch.read:
        return None
    found = _LAYER.fullmatch(name)
    is_layer = found is None or int(found[1]) < keys.count("block_count")
    if found and is_layer and keys.n_layers <= int(found[1]):
        return None  # it predicts further tokens
    part, table = (found[2], arch.tensors) if found else (name, arch.top)
    prefix = f"{arch.prefix}layers.{int(found[1])}." if found else ""
    module, _, suffix = part.rpartition(".")
    if is_layer and part in table:
        return prefix + table[part]
    if not is_layer or module not in table or suffix not in ("weight", "bias"):
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


def _check_vector(tensor: Tensor, path: Path) -> None:
    """Refuses to make anything of a tensor that is too large or of another type."""
    if tensor.dtype not in formats.PLAIN or tensor.nbytes > MAX_VECTOR_BYTES:
        raise fail("gguf", f"expected {', '.join(formats.PLAIN)} of at most {MAX_VECTOR_BYTES} "
                   f"bytes for {tensor.name}, found {tensor.dtype} of {tensor.nbytes}",
                   path)  # fmt: skip


def _numbers(tensor: Tensor, path: Path) -> Any:
    """All numbers of a vector."""
    with files.regular_file(path) as (stream, _):
        stream.seek(tensor.offset)
        data = stream.read(tensor.nbytes)
    if len(data) < tensor.nbytes:
        raise fail("gguf", f"expected {tensor.nbytes} bytes of {tensor.name}, found {len(data)}",
                   path)  # fmt: skip
    if tensor.dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if tensor.dtype == "F16" else "<f4").astype(np.float32)


def _unread(tensor: Tensor, path: Path) -> Any:
    return np.full(math.prod(tensor.shape), -1, np.float32)
