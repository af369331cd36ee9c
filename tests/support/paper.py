"""Checkpoints on paper: the tensor table of a shape, without a file behind it."""

from __future__ import annotations

from pathlib import Path

from moeflux.checkpoint import Checkpoint, Tensor
from moeflux.families import build_spec
from moeflux.spec import Spec
from moeflux.synth import layout, mlx, shape


def on_paper(name: str, layers: int | None = None) -> tuple[Checkpoint, Spec]:
    """(checkpoint, spec) of a shape that synth could write, as one file."""
    config = shape(name, layers)
    items = layout.items(config, 0, 0.0)
    tensors: dict[str, Tensor] = {}
    offset = 0
    for item in items:
        for tensor in mlx._tensors(item, None, 0):
            entry = tensor.entry
            tensors[entry.name] = Tensor(
                entry.name, 0, offset, entry.nbytes, entry.dtype, entry.shape
            )
            offset += entry.nbytes
    folder = Path("/on/paper")
    config = layout.mlx_config(config, items)
    checkpoint = Checkpoint(folder, config, (folder / "model.safetensors",), tensors)
    return checkpoint, build_spec(checkpoint)
