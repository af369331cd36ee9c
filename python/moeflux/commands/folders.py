"""Folders that `pack`, `convert` and `synth` have written: `moeflux models` lists them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .. import files, state
from ..errors import IoError
from ..lookalikes import CLAIMS

FILE, MOST = "folders.json", 1000  # of the state folder, and how many are kept


def claimed(folder: Path) -> str | None:
    """The command that has written a folder, as its note says; None: none of ours, or hidden."""
    with contextlib.suppress(IoError):
        return next((name for name, note in CLAIMS.items() if files.mode(folder / note)), None)
    return None


def known() -> list[Path]:
    """Those that are still there, the last one first."""
    paths = [Path(name) for name in state.read(FILE) if isinstance(name, str)]
    return [path for path in paths if path.is_absolute() and claimed(path)]


def remember(folder: Path) -> None:
    """Notes a folder that has the note of a command."""
    path = Path(os.path.realpath(folder))
    if claimed(path):
        others = [str(other) for other in known() if other != path]
        state.write(FILE, [str(path), *others[: MOST - 1]])
