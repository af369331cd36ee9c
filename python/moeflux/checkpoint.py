"""Reads a checkpoint: config.json and safetensors headers of a folder, or the head of a GGUF file.

Everything here treats the files as hostile: sizes are checked before anything is allocated, every
tensor's range against its shape, its neighbours and the real file size. No weights are read.
Source of the format: the safetensors specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files, lookalikes, packed
from .arguments import show
from .errors import IoError
from .gguf import contents as gguf
from .safetensors_header import MAX_JSON_BYTES, Tensor, fail, parse_object, read_header

__all__ = ["INDEX_NAME", "Checkpoint", "Tensor", "fail", "open_checkpoint", "read_json"]

MAX_SMALL_JSON_BYTES = 16_000_000
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model's config, data files and tensor table.

    Attributes:
        path: the folder, or one of its GGUF files.
    """

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def file_bytes(self) -> list[int]:
        """The least size of each file that holds all of its tensors."""
        ends = [0] * len(self.files)
        for tensor in self.tensors.values():
            stretch = tensor.nbytes
            if tensor.stride:  # to the end of the last record's part
                stretch = tensor.stride * (tensor.shape[0] - 1) + tensor.nbytes // tensor.shape[0]
            ends[tensor.file] = max(ends[tensor.file], tensor.offset + stretch)
        return ends

    @property
    def config_file(self) -> Path:
        """Where the config stands."""
        return self.path if gguf.is_gguf(self.path) else self.path / "config.json"

    def where(self, tensor: Tensor) -> str:
        """Names tensor and file for a message."""
        return f"tensor {tensor.name} in {self.files[tensor.file]}"


def read_json(path: Path, limit_bytes: int = MAX_SMALL_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON object from a regular file of bounded size.

    Raises:
        IoError: it cannot be read.
        FormatError: too long, no JSON, or no object.
    """
    return parse_object(files.read(path, limit_bytes), path, "JSON")


def _shard_names(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    index = folder / INDEX_NAME
    if not files.mode(index):
        if files.mode(folder / "model.safetensors"):
            return ["model.safetensors"], None
        raise fail("checkpoint", f"expected model.safetensors or {INDEX_NAME}, found neither",
                   folder)  # fmt: skip
    weight_map = read_json(index, MAX_JSON_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise fail("checkpoint", "expected a weight_map object", index)
    for name in weight_map.values():
        if not isinstance(name, str) or "/" in name or "\\" in name or name in ("", ".", ".."):
            raise fail("checkpoint", f"expected plain file names, found {show(name)}", index)
        if not name.endswith(".safetensors"):
            raise fail("checkpoint", f"expected .safetensors files, found {show(name)}", index)
    return sorted(set(weight_map.values())), weight_map


def open_checkpoint(path: Path, *, allow_replaced: bool = False) -> Checkpoint:
    """Reads config and headers of a checkpoint.

    Args:
        path: a folder with config.json and safetensors files, or any of a model's GGUF files.
        allow_replaced: even one whose experts `pack --replace` has moved away.

    Raises:
        IoError: a file is missing or unreadable.
        FormatError: a file contradicts itself or another.
    """
    if gguf.is_gguf(path):
        return Checkpoint(path, **vars(gguf.read(path)))
    return _open_folder(path, allow_replaced)


def _open_folder(folder: Path, allow_replaced: bool) -> Checkpoint:
    lookalikes.refuse(folder, allow_replaced=allow_replaced)
    config = read_json(folder / "config.json")
    names, weight_map = _shard_names(folder)
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        path = folder / name
        if not files.mode(path):
            raise IoError(f"[checkpoint] a shard named by the index is missing ({path})")
        stored, metadata = read_header(path, number)
        for tensor in packed.expand(stored, metadata, path).values():
            if weight_map is not None and weight_map.get(tensor.name) != name:
                raise fail("checkpoint", f"the index expects {tensor.name!r} in "
                           f"{weight_map.get(tensor.name)!r}, found it here", path)  # fmt: skip
            tensors[tensor.name] = tensor
    missing = [name for name in (weight_map or {}) if name not in tensors]
    if missing:
        raise fail("checkpoint", f"expected tensor {missing[0]!r} (and {len(missing) - 1} more)",
                   folder / INDEX_NAME)  # fmt: skip
    return Checkpoint(folder, config, tuple(folder / name for name in names), tensors)
