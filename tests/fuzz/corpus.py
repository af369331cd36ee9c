"""The kept inputs of each target: corpus/NAME.txt, a line of base64 of zlib for each."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")


def load(name: str) -> list[bytes]:
    """The inputs of a target, the shortest first."""
    path = FOLDER / f"{name}.txt"
    if not path.exists():
        return []
    return [zlib.decompress(base64.b64decode(line)) for line in path.read_text().split()]


def store(name: str, inputs: Iterable[bytes], most_bytes: int) -> None:
    """Writes the shortest inputs, as many as fit."""
    lines, size = [], 0
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        lines.append(base64.b64encode(zlib.compress(data, 9)).decode() + "\n")
        size += len(lines[-1])
        if size > most_bytes:
            break
        (FOLDER / f"{name}.txt").write_text("".join(lines))
