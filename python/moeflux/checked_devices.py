"""Which devices the doctor has found right on this machine, over processes: a file of the user's.

A device counts while chip, system, moeflux and its shaders are those that were checked.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from . import _core, state
from ._version import __version__

NAME = "checked_devices.json"
_LARGEST, _MOST = 1 << 16, 100  # bytes of it; marks


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
    return fingerprint(device) in state.read(NAME, _LARGEST)


def note_passed(device: _core.NativeDevice) -> None:
    """Remembers that the doctor has found it right, once all of its examination is over."""
    mark = fingerprint(device)
    known = [other for other in state.read(NAME, _LARGEST) if other != mark]
    state.write(NAME, [*known, mark][-_MOST:])


def revoke(kind: str) -> None:
    """Forgets every device of that kind: before the doctor looks, which may not come to its end."""
    known = state.read(NAME, _LARGEST)
    marks = [mark for mark in known if not isinstance(mark, dict) or mark.get("kind") != kind]
    if marks != known:
        state.write(NAME, marks[-_MOST:])
