"""Files of a stranger's folder: regular ones of bounded size, and no OSError but ours."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import FormatError, IoError

_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def _cannot_read(path: Path, error: OSError) -> IoError:
    return IoError(f"[files] cannot read: {error.strerror} ({path})")


def mode(path: Path) -> int:
    """Type and permissions as `stat` tells them; 0 when there is no such file.

    Raises:
        IoError: the system does not tell, for want of a permission for example.
    """
    try:
        return path.stat().st_mode
    except ValueError:  # a name that the system cannot be asked for: no file has it
        return 0
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return 0
        raise _cannot_read(path, error) from error


@contextmanager
def regular_file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file open for reading, and its size. Errors of reads inside the block are typed, too.

    Raises:
        IoError: it cannot be read, or is something else: reading a pipe or a device may never end.
    """

    def at_once(name: str, flags: int) -> int:  # a pipe without a writer would wait for one
        return os.open(name, flags | os.O_NONBLOCK)

    try:
        with open(path, "rb", opener=at_once) as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise IoError(f"[files] expected a regular file ({path})")
            yield stream, info.st_size
    except OSError as error:
        if isinstance(error, IoError):
            raise
        raise _cannot_read(path, error) from error


def read(path: Path, limit_bytes: int) -> bytes:
    """The whole of a regular file.

    Raises:
        IoError: it cannot be read.
        FormatError: it is longer than the limit.
    """
    with regular_file(path) as (stream, size):
        if size > limit_bytes:
            raise FormatError(
                f"[files] expected at most {limit_bytes} bytes, found {size} ({path})"
            )
        return stream.read(size)
