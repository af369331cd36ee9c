"""Folders that `pack`, `convert` and `synth` have written, so that `moeflux models` knows of them.

A file of the user's says where they are. It is a help and no more: without it nothing fails.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from .. import files, state
from ..durable import private_file
from ..errors import MoefluxError
from ..lookalikes import CLAIMS

MOST, MAX_BYTES = 1000, 1 << 20  # folders, and bytes of the file


def _list() -> Path:
    return state.place("folders.json")


def claimed(folder: Path) -> str | None:
    """The command that has written a folder, as its note says; None: none of ours."""
    for command, note in CLAIMS.items():
        if files.mode(folder / note):
            return command
    return None


def known() -> list[Path]:
    """Those that are still there, the last one first."""
    found: list[Path] = []
    with contextlib.suppress(OSError, MoefluxError, ValueError, RecursionError, RuntimeError):
        said = json.loads(files.read(_list(), MAX_BYTES))
        names = said.get("folders") if isinstance(said, dict) else None
        for name in names if isinstance(names, list) else ():
            path = Path(name) if isinstance(name, str) else None
            if path is not None and path.is_absolute() and claimed(path):
                found.append(path)
    return found


def remember(folder: Path) -> None:
    """Notes a folder that has the note of a command; what cannot be noted is not."""
    with contextlib.suppress(OSError, MoefluxError, ValueError, RuntimeError):
        path = Path(os.path.realpath(folder))
        if claimed(path):
            others = [str(other) for other in known() if other != path]
            _list().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with private_file(_list()) as stream:
                stream.write(json.dumps({"folders": [str(path), *others[: MOST - 1]]}).encode())
