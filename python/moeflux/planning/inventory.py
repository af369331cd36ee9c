"""What a checkpoint's bytes are: experts, resident weights, and what a text engine leaves alone."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint import Checkpoint
from ..spec import Spec


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


def inventory(checkpoint: Checkpoint, spec: Spec) -> Inventory:
    """Counts from headers alone; `spec` is that of the checkpoint's family."""
    used = {tensor.name for tensor in spec.resident} | _expert_names(checkpoint, spec)
    ignored = [tensor for name, tensor in checkpoint.tensors.items() if name not in used]
    return Inventory(
        routed_bytes=sum(moe.n_experts * moe.experts.nbytes for moe in spec.moes),
        resident_bytes=sum(tensor.nbytes for tensor in spec.resident),
        ignored_bytes=sum(tensor.nbytes for tensor in ignored),
        n_ignored=len(ignored),
        expert_bytes=max((moe.experts.nbytes for moe in spec.moes), default=0),
        token_bytes=sum(moe.top_k * moe.experts.nbytes for moe in spec.moes),
    )


def _expert_names(checkpoint: Checkpoint, spec: Spec) -> set[str]:
    """The tensors in which experts lie, whatever the layout: those that hold a part's begin."""
    starts = {
        (int(file), int(offset))
        for moe in spec.moes
        for files, offsets, _ in moe.experts.parts.values()
        for file, offset in zip(files, offsets, strict=True)
    }
    at = {(tensor.file, tensor.offset): name for name, tensor in checkpoint.tensors.items()}
    return {at[start] for start in starts if start in at}
