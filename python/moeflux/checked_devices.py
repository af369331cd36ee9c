"""Which devices the doctor has found right on this machine, over processes: a file of the user's.

A device counts while chip, system and moeflux are those that were checked.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from . import _core, state
from ._version import __version__
from .durable import write_json
from .errors import IoError, MoefluxError
from .log import logger

NAME = "checked_devices.json"
_LARGEST = 1 << 16


def place() -> Path:
    """The file, which need not exist."""
    return state.place(NAME)


def fingerprint(device: _core.NativeDevice) -> dict[str, str]:
    """What a check holds for: another chip, system or version is to be checked again."""
    return {"kind": device.kind, "name": device.name, "machine": platform.machine(),
            "system": platform.platform(), "moeflux": __version__}  # fmt: skip


def has_passed(device: _core.NativeDevice) -> bool:
    """Whether the doctor has found it right. Whatever is wrong with the file: it has not."""
    return fingerprint(device) in _read()


def note(device: _core.NativeDevice, passed: bool) -> None:
    """Remembers what the doctor found. A folder that cannot be written is told in the log."""
    mark = fingerprint(device)
    marks = [known for known in _read() if known != mark] + ([mark] if passed else [])
    try:
        place().parent.mkdir(parents=True, exist_ok=True)
        write_json(place(), marks[-100:], indent=1)
    except (OSError, RuntimeError, MoefluxError) as error:
        logger.warning("cannot remember what the doctor found: %s", str(error))


def _read() -> list[Any]:
    try:
        path = place()
        if path.stat().st_size > _LARGEST:
            return []
        marks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError, IoError):
        return []
    return marks if isinstance(marks, list) else []
