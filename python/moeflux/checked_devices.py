"""Which devices the doctor has found right on this machine, over processes: a file of the user's.

A device counts while chip, system, moeflux and its shaders are those that were checked.
"""

from __future__ import annotations

import hashlib
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
    """What a check holds for: another chip, system, version or shader is to be checked again."""
    shaders = hashlib.sha256(_core.library_source().encode()).hexdigest()
    return {"kind": device.kind, "name": device.name, "machine": platform.machine(),
            "system": platform.platform(), "moeflux": __version__, "shaders": shaders}  # fmt: skip


def has_passed(device: _core.NativeDevice) -> bool:
    """Whether the doctor has found it right. Whatever is wrong with the file: it has not."""
    return fingerprint(device) in _read()


def note_passed(device: _core.NativeDevice) -> None:
    """Remembers that the doctor has found it right, once all of its examination is over."""
    mark = fingerprint(device)
    _write([known for known in _read() if known != mark] + [mark])


def revoke(kind: str) -> None:
    """Forgets every device of that kind: before the doctor looks, which may not come to its end."""
    known = _read()
    marks = [mark for mark in known if not isinstance(mark, dict) or mark.get("kind") != kind]
    if marks != known:
        _write(marks)


def _write(marks: list[Any]) -> None:
    """A folder that cannot be written is told in the log."""
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
