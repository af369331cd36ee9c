"""All tensors of a folder, to compare them byte by byte."""

from __future__ import annotations

from pathlib import Path

from oracle import safetensors_file

Bytes = dict[str, tuple[str, tuple[int, ...], bytes]]


def of(folder: Path) -> Bytes:
    """Dtype, shape and bytes of each, by name."""
    return {
        name: (stored.dtype, stored.data.shape, stored.data.tobytes())
        for file in sorted(folder.glob("*.safetensors"))
        for name, stored in safetensors_file.read(file).items()
    }


def differing(found: Bytes, expected: Bytes) -> list[str]:
    """Names of those that one lacks, or that differ."""
    return sorted(name for name in found.keys() | expected.keys()
                  if found.get(name) != expected.get(name))  # fmt: skip
