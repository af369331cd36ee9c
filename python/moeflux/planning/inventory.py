"""What a checkpoint's bytes are: experts, resident weights, and what a text engine leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checkpoint import Checkpoint
from ..packing import sources


@dataclass(frozen=True)
class Inventory:
    """Bytes on disk by what becomes of them.

    Attributes:
        routed_bytes: experts, read on demand.
        resident_bytes: tensors that `load` keeps in memory.
        ignored_bytes: tensors that it never reads, such as a vision tower or an MTP head.
        n_ignored: their number.
        expert_bytes: the largest expert.
        token_bytes: experts of one token: what it reads when nothing is in memory.
    """

    routed_bytes: int
    resident_bytes: int
    ignored_bytes: int
    n_ignored: int
    expert_bytes: int
    token_bytes: int


def inventory(checkpoint: Checkpoint, spec: dict[str, Any]) -> Inventory:
    """Counts from headers alone; `spec` is that of the checkpoint's family."""
    layers = sources.layers(spec)
    sizes = [sum(part.nbytes for part in layer.parts) for layer in layers]
    top_ks = [layer["moe"]["top_k"] for layer in spec["layers"] if "moe" in layer]
    dense = sources.dense(checkpoint, spec)
    used = {tensor.name for tensor in dense} | _expert_names(checkpoint, layers)
    ignored = [tensor for name, tensor in checkpoint.tensors.items() if name not in used]
    return Inventory(
        routed_bytes=sum(s * layer.n_experts for s, layer in zip(sizes, layers, strict=True)),
        resident_bytes=sum(tensor.nbytes for tensor in dense),
        ignored_bytes=sum(tensor.nbytes for tensor in ignored),
        n_ignored=len(ignored),
        expert_bytes=max(sizes, default=0),
        token_bytes=sum(s * k for s, k in zip(sizes, top_ks, strict=True)),
    )


def _expert_names(checkpoint: Checkpoint, layers: list[sources.Layer]) -> set[str]:
    """The tensors in which experts lie, whatever the layout: those that hold a part's begin."""
    starts = {
        (int(file), int(offset))
        for layer in layers
        for files, offsets in layer.places
        for file, offset in zip(files, offsets, strict=True)
    }
    at = {(tensor.file, tensor.offset): name for name, tensor in checkpoint.tensors.items()}
    return {at[start] for start in starts if start in at}
