"""The files of a source, open for reading."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import IoError
from ..spec import Range


class SourceFiles:
    """The source's files, open for reading from several threads.

    Attributes:
        held_bytes: of memory that reading takes.
    """

    held_bytes = 0

    def __init__(self, files: Sequence[Path], tag: str) -> None:
        """`tag` names the command in messages. Raises IoError: a file cannot be opened."""
        self.files, self._tag = files, tag
        self._descriptors: list[int] = []
        try:
            for file in files:
                self._descriptors.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise IoError(f"[{tag}] cannot open: {error.strerror} ({file})") from error

    def read(self, place: Range, out: memoryview) -> None:
        """Fills `out` with a range. Raises IoError when it cannot be had whole."""
        done = 0
        try:
            while done < place.nbytes:
                got = os.preadv(
                    self._descriptors[place.file], [out[done : place.nbytes]], place.offset + done
                )
                if got == 0:
                    raise IoError(f"[{self._tag}] file ended early: expected {place.nbytes} bytes "
                                  f"at {place.offset} ({self.files[place.file]})")  # fmt: skip
                done += got
        except OSError as error:
            if isinstance(error, IoError):
                raise
            raise IoError(
                f"[{self._tag}] cannot read: {error.strerror} ({self.files[place.file]})"
            ) from error

    def close(self) -> None:
        """Closes them."""
        while self._descriptors:
            os.close(self._descriptors.pop())
