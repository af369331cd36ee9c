"""What commands remember of this machine and user: small JSON files in the user's state folder.

They are a help and no more: one that is missing, damaged or cannot be written makes nothing fail.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from . import files
from .durable import private_file
from .errors import MoefluxError
from .log import logger

MAX_BYTES = 1 << 20  # of a file


def place(name: str) -> Path:
    """The file of that name, which need not exist."""
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "moeflux" / name
    home = Path.home()
    mac = home / "Library" / "Application Support"
    return (mac if sys.platform == "darwin" else home / ".local" / "state") / "moeflux" / name


def read(name: str, max_bytes: int = MAX_BYTES) -> list[Any]:
    """The list in a file; empty for whatever is wrong with it."""
    try:
        found = json.loads(files.read(place(name), max_bytes))
    except (OSError, ValueError, RuntimeError, RecursionError, MoefluxError):
        return []
    return found if isinstance(found, list) else []


def write(name: str, found: list[Any]) -> None:
    """Replaces a file's list. A folder that cannot be written is told in the log."""
    try:
        path = place(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with private_file(path) as stream:
            stream.write(json.dumps(found, indent=1).encode())
    except (OSError, RuntimeError, MoefluxError) as error:
        logger.warning("cannot remember in %s: %s", name, str(error))
