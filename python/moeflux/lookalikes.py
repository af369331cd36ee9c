"""Folders that are no checkpoint, recognised, so that the error says what to do about them."""

from __future__ import annotations

from pathlib import Path

from . import files
from .errors import FormatError

REPLACED_NAME = "moeflux-replaced.json"  # in a source whose bytes `pack --replace` has freed
# The note that a command leaves in a folder that it fills; config.json is the last file to come.
CLAIMS = {"convert": "convert.json", "pack": "pack.json", "synth": "synth.json"}


def refuse(folder: Path, *, allow_replaced: bool = False) -> None:
    """Raises FormatError for a folder that is known to hold no checkpoint.

    Args:
        folder: what should be a checkpoint.
        allow_replaced: even one whose bytes have been moved away by `pack --replace`.
    """
    if not allow_replaced and files.mode(folder / REPLACED_NAME):
        raise FormatError(
            f"[checkpoint] expected a checkpoint, found what `moeflux pack --replace` left of one; "
            f"{REPLACED_NAME} says where it went ({folder})"
        )
    if files.mode(folder / "config.json"):
        return
    for command, note in CLAIMS.items():
        if files.mode(folder / note):
            raise FormatError(f"[checkpoint] expected a whole checkpoint, found an unfinished one: "
                              f"run the same `moeflux {command}` again ({folder})")  # fmt: skip
