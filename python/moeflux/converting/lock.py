"""One run at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import IoError

_HELD = (errno.EAGAIN, errno.EACCES)


@contextmanager
def alone(note: Path, tag: str) -> Iterator[None]:
    """Keeps other runs out of the folder of a note; the system ends it with the process.

    Where the file system has no locks it does nothing.

    Args:
        note: a file that is there.
        tag: names the command in the message.

    Raises:
        IoError: another run is at work there.
    """
    with note.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise IoError(f"[{tag}] expected no other run in the folder, found one at work "
                              f"({note.parent})") from None  # fmt: skip
        yield
