"""Writes the MLX form: sharded safetensors with an index, in the habits of MLX's own writer.

Shards of at most 5 GB in model order; inside a shard tensors lie in hash order and the header is
not padded, so that data begin at any byte offset, as in files from the hub. A shard is written
under another name and renamed when it is synced: shards already there are complete and are kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import safetensors_header
from ..checkpoint import INDEX_NAME
from ..durable import require_space, whole_file, write_json
from ..safetensors_header import Entry
from .shapes import GROUP
from .weights import CONSTANT_CODES, Array, Gate, Item, Matrix, PlainGate, Pool, Vector, to_bf16

SHARD_BYTES = 5 * 10**9  # mlx-lm's MAX_FILE_SIZE_GB
Report = Callable[[int], None]  # told about bytes as they are written


@dataclass(frozen=True)
class _Tensor:
    """One tensor of a file and what makes its bytes, piece by piece."""

    entry: Entry
    pieces: Callable[[], Iterator[Array]]


def _tensors(item: Item, pool: Pool, seed: int) -> list[_Tensor]:
    if isinstance(item, Matrix):
        return [
            _tensor(f"{item.name}.weight", "U32", (*item.lead, item.columns // 8),
                    lambda: item.read(pool.codes, CONSTANT_CODES, silence=False)),
            _part(item, "scales", pool, 1),
            _part(item, "biases", pool, -8),
        ]  # fmt: skip
    if isinstance(item, PlainGate):
        return [_tensor(f"{item.name}.weight", "BF16", (item.out, item.columns),
                        lambda: iter([to_bf16(item.values(seed))]))]  # fmt: skip
    if isinstance(item, Gate):
        groups = (item.out, item.columns // GROUP)
        return [
            _tensor(f"{item.name}.weight", "U32", (item.out, item.columns // 4),
                    lambda: iter([item.parts(seed)[0]])),
            _tensor(f"{item.name}.scales", "BF16", groups,
                    lambda: iter([to_bf16(item.parts(seed)[1])])),
            _tensor(f"{item.name}.biases", "BF16", groups,
                    lambda: iter([to_bf16(-128 * item.parts(seed)[1])])),
        ]  # fmt: skip
    return [_vector(item, seed)]


def _part(item: Matrix, part: str, pool: Pool, factor: int) -> _Tensor:
    """Scales (factor 1) or biases (-8) of a 4-bit matrix."""
    constant = int(to_bf16(np.array([factor * item.constant]))[0])
    return _tensor(
        f"{item.name}.{part}",
        "BF16",
        (*item.lead, item.columns // GROUP),
        lambda: item.read(to_bf16(factor * pool.scales(item.scale)), constant, silence=True),
    )


def _vector(item: Vector, seed: int) -> _Tensor:
    def values() -> Iterator[Array]:
        plain = item.values(seed)
        yield plain if item.plain else to_bf16(plain)

    return _tensor(item.name, "F32" if item.plain else "BF16", item.shape, values)


def _tensor(
    name: str, dtype: str, shape: tuple[int, ...], pieces: Callable[[], Iterator[Array]]
) -> _Tensor:
    nbytes = math.prod(shape) * (2 if dtype == "BF16" else 4)
    return _Tensor(Entry(name, dtype, shape, nbytes), pieces)


def _shards(tensors: list[_Tensor], shard_bytes: int) -> list[list[_Tensor]]:
    shards: list[list[_Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.entry.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.entry.nbytes
    return [
        sorted(shard, key=lambda t: hashlib.sha256(t.entry.name.encode()).digest())
        for shard in shards
    ]


def _size(shard: list[_Tensor]) -> int:
    return sum(tensor.entry.nbytes for tensor in shard)


def write(
    folder: Path,
    model: list[Item],
    pool: Pool,
    seed: int,
    shard_bytes: int = SHARD_BYTES,
    report: Report = lambda _: None,
) -> None:
    """The shards that are missing, then the index.

    Raises:
        IoError: the disk has no room, seen before anything is written.
        OSError: writing failed; what is complete stays.
    """
    shards = _shards([t for item in model for t in _tensors(item, pool, seed)], shard_bytes)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    missing = {
        folder / name: _size(shard)
        for name, shard in zip(names, shards, strict=True)
        if not (folder / name).exists()
    }
    require_space(folder, sum(missing.values()), "synth", missing)
    weight_map: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        weight_map |= {tensor.entry.name: name for tensor in shard}
        if (folder / name).exists():
            report(_size(shard))
            continue
        with whole_file(folder / name) as stream:
            metadata = {"format": "mlx"}
            stream.write(safetensors_header.encode((t.entry for t in shard), metadata))
            for tensor in shard:
                for piece in tensor.pieces():
                    stream.write(piece.data)
                    report(piece.nbytes)
    index: dict[str, Any] = {
        "metadata": {"total_size": sum(map(_size, shards))},
        "weight_map": dict(sorted(weight_map.items())),
    }
    write_json(folder / INDEX_NAME, index)


def data_bytes(model: list[Item]) -> int:
    """Bytes of all tensors."""
    return sum(nbytes(item) for item in model)


def nbytes(item: Item) -> int:
    """Bytes of the tensors of an item."""
    if isinstance(item, Matrix):
        return item.n_groups * (GROUP // 2 + 4)
    if isinstance(item, PlainGate):
        return item.out * item.columns * 2
    if isinstance(item, Gate):
        return item.out * item.columns // GROUP * (GROUP + 4)
    return math.prod(item.shape) * (4 if item.plain else 2)
