"""The inputs of each target that are kept, a line of base64 of zlib each.

corpus/NAME.txt covers most of the target; findings/NAME.txt is what once went wrong.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")
FINDINGS = Path(__file__).with_name("findings")


def load(name: str) -> list[bytes]:
    """The inputs of a target, those of its corpus first."""
    paths = [folder / f"{name}.txt" for folder in (FOLDER, FINDINGS)]
    lines = [line for path in paths if path.exists() for line in path.read_text().split()]
    return [zlib.decompress(base64.b64decode(line)) for line in lines]


def line_of(data: bytes) -> str:
    """An input as it is kept."""
    return base64.b64encode(zlib.compress(data, 9)).decode() + "\n"


def store(name: str, inputs: Iterable[bytes], most_bytes: int) -> None:
    """Writes a corpus of the shortest inputs, as many as fit."""
    text = ""
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        if len(text) + len(line := line_of(data)) > most_bytes:
            break
        text += line
    (FOLDER / f"{name}.txt").write_text(text)
