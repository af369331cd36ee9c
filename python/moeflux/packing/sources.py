"""What is to be packed: ranges of the source's files, taken from the validated spec.

Works on the spec that every family builds, so it knows no family and no layout of the source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint, Tensor
from ..errors import IoError
from ..packed import PART_ALIGNMENT, Part, record_bytes, round_up
from ..safetensors_header import DTYPE_BYTES


@dataclass(frozen=True)
class Range:
    """Bytes of one of the source's files."""

    file: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layer:
    """The experts of a layer: the parts of a record and where each expert's parts lie."""

    parts: tuple[Part, ...]
    places: tuple[tuple[Sequence[int], Sequence[int]], ...]  # (file, offset) of each expert, a part

    @property
    def n_experts(self) -> int:
        """Experts, and records."""
        return len(self.places[0][0])

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return record_bytes(self.parts)

    def ranges(self, expert: int) -> Iterator[tuple[Part, Range]]:
        """Where the parts of one expert lie."""
        for part, (files, offsets) in zip(self.parts, self.places, strict=True):
            yield part, Range(int(files[expert]), int(offsets[expert]), part.nbytes)


def layers(spec: dict[str, Any]) -> list[Layer]:
    """The layers with experts of a spec, in order."""
    return [_layer(layer["moe"]["experts"]) for layer in spec["layers"] if "moe" in layer]


def _layer(experts: dict[str, Any]) -> Layer:
    parts, places, end = [], [], 0
    for kind in ("gate", "up", "down"):
        matrix = experts[kind]
        for part in ("weight", "scales", "biases"):
            if part not in matrix:
                continue
            files, offsets, nbytes = matrix[part]
            quantised = matrix["bits"] and part == "weight"
            dtype = "U32" if quantised else matrix["dtype"]
            shape = (matrix["out"], nbytes // matrix["out"] // DTYPE_BYTES[dtype])
            offset = round_up(end, PART_ALIGNMENT)
            parts.append(Part(f"{matrix['module']}.{part}", dtype, shape, offset))
            places.append((files, offsets))
            end = offset + nbytes
    return Layer(tuple(parts), tuple(places))


def dense(checkpoint: Checkpoint, spec: dict[str, Any]) -> list[Tensor]:
    """The tensors that stay resident, by name; what a text engine skips is not among them."""
    names: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, tuple) and len(node) == 5 and isinstance(node[0], str):
            names.add(node[0])
        elif isinstance(node, dict):
            for key, value in node.items():
                if key != "experts":
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(spec)
    return [checkpoint.tensors[name] for name in sorted(names)]


class SourceFiles:
    """The source's files, open for reading from several threads."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._descriptors: list[int] = []
        try:
            for file in files:
                self._descriptors.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise IoError(f"[pack] cannot open: {error.strerror} ({file})") from error

    def read(self, place: Range, out: memoryview) -> None:
        """Fills `out` with a range. Raises IoError when it cannot be had whole."""
        done = 0
        try:
            while done < place.nbytes:
                got = os.preadv(
                    self._descriptors[place.file], [out[done : place.nbytes]], place.offset + done
                )
                if got == 0:
                    raise IoError(f"[pack] file ended early: expected {place.nbytes} bytes at "
                                  f"{place.offset} ({self.files[place.file]})")  # fmt: skip
                done += got
        except OSError as error:
            if isinstance(error, IoError):
                raise
            raise IoError(
                f"[pack] cannot read: {error.strerror} ({self.files[place.file]})"
            ) from error

    def close(self) -> None:
        """Closes them."""
        while self._descriptors:
            os.close(self._descriptors.pop())
