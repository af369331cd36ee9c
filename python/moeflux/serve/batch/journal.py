"""The rows that are answered so far, in a file that only grows: what a killed batch goes on from.

The first line says what the batch is. Each other one is a row: its index, the CRC-32 of the rest,
the status, and the row's JSON. A line that was cut, and what is behind it, does not count.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ... import durable, files
from ...errors import FormatError, IoError

SYNC_SECONDS = 1.0  # of work that a loss of power takes at most
FAILED = 500  # rows of such a status are tried again by the next run
KIND = "moeflux batch 1"


@dataclass(frozen=True)
class _Place:
    status: int
    offset: int
    nbytes: int


def beside(target: Path) -> Path:
    """Where the journal of an output is."""
    return target.with_name(f"{target.name}.rows")


class Journal:
    """Rows by index. One process writes it at a time, which the caller sees to.

    Args:
        path: of the file.
        said: what the batch is, as its first line says.
        stream: open for reading and writing, behind its last whole line.
        places: of the rows that it has.
    """

    def __init__(
        self, path: Path, said: Mapping[str, Any], stream: BinaryIO, places: dict[int, _Place]
    ) -> None:
        self.path, self.said = path, said
        self._stream, self._places = stream, places
        self._end, self._synced = stream.tell(), time.monotonic()

    @classmethod
    def find(cls, path: Path, wanted: Mapping[str, Any]) -> Journal | None:
        """That of an earlier run; None: there is none.

        Raises:
            FormatError: it is of another batch, or no journal.
            IoError: it cannot be read.
        """
        if not files.mode(path):
            return None
        with files.regular_file(path):
            pass
        stream = open(path, "rb+")  # noqa: SIM115
        try:
            said = _head(stream.readline(), path)
            for name in sorted(wanted):
                if said.get(name) != wanted[name]:
                    raise FormatError(
                        f"[batch] an earlier run of another batch has left its rows: expected "
                        f"{name} {_short(wanted[name])}, found {_short(said.get(name))}; remove "
                        f"the file, or name another output ({path})"
                    )
            places = _read(stream)
        except BaseException:
            stream.close()
            raise
        return cls(path, said, stream, places)

    @classmethod
    def create(cls, path: Path, said: Mapping[str, Any]) -> Journal:
        """A new one. Raises OSError where none can be written."""
        durable.write_text(path, json.dumps({"kind": KIND, **said}) + "\n")
        stream = open(path, "rb+")  # noqa: SIM115
        stream.seek(0, os.SEEK_END)
        return cls(path, said, stream, {})

    def has(self, index: int) -> bool:
        """Whether the row needs no other answer."""
        place = self._places.get(index)
        return place is not None and place.status < FAILED

    @property
    def failed(self) -> int:
        """Rows whose status is no success."""
        return sum(place.status != 200 for place in self._places.values())

    def add(self, index: int, status: int, row: bytes) -> None:
        """Takes a row.

        Args:
            index: of the row.
            status: of HTTP; 0 where the line was no request.
            row: its JSON, a line without its end.
        """
        head = _line_head(index, status, row)
        self._stream.write(head + row + b"\n")
        self._stream.flush()
        self._places[index] = _Place(status, self._end + len(head), len(row))
        self._end += len(head) + len(row) + 1
        if time.monotonic() > self._synced + SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def publish(self, target: Path, count: int) -> None:
        """Writes rows 0 to `count` - 1 in their order, whole or not at all, and is gone then.

        Raises:
            IoError: the disk has no room for them.
        """
        durable.require_space(target, self._end, "batch", [target])
        with durable.whole_file(target) as out:
            for index in range(count):
                place = self._places[index]
                self._stream.seek(place.offset)
                out.write(self._stream.read(place.nbytes) + b"\n")
        self.close()
        self.path.unlink()

    def close(self) -> None:
        """Lets the file go. What it has stays."""
        if not self._stream.closed:
            os.fsync(self._stream.fileno())
            self._stream.close()


def _line_head(index: int, status: int, row: bytes) -> bytes:
    return b"%d %08x %d " % (index, zlib.crc32(b"%d %d " % (index, status) + row), status)


def _head(line: bytes, path: Path) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise FormatError(f"[batch] expected the rows of an earlier run ({KIND!r}), found another "
                          f"file ({path})")  # fmt: skip
    return said


def _read(stream: BinaryIO) -> dict[int, _Place]:
    """The rows of all whole lines; the rest of the file is cut off."""
    places: dict[int, _Place] = {}
    end = stream.tell()
    for line in stream:
        parts = line.split(b" ", 3)
        if len(parts) < 4 or not line.endswith(b"\n"):
            break
        if not (parts[0].isdigit() and parts[2].isdigit()):
            break
        index, status, row = int(parts[0]), int(parts[2]), parts[3][:-1]
        if _line_head(index, status, row) + row + b"\n" != line:
            break
        places[index] = _Place(status, end + len(line) - len(row) - 1, len(row))
        end += len(line)
    stream.seek(end)
    stream.truncate()
    return places


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_of(target: Path, ids: list[str]) -> bool:
    """Whether an output has the rows of these ids and no others, in their order.

    Raises:
        IoError: it cannot be read.
    """
    with files.regular_file(target) as (stream, _):
        count = 0
        for count, line in enumerate(stream, 1):
            try:
                if count > len(ids) or json.loads(line)["id"] != ids[count - 1]:
                    return False
            except (ValueError, RecursionError, KeyError, TypeError):
                return False
        return count == len(ids)


def refuse_target(source: Path, target: Path) -> None:
    """Refuses a place that takes no output, before a model is loaded.

    Raises:
        IoError: there is no such folder, or the output is the input.
    """
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise IoError(f"[batch] expected a folder to write to ({target.parent})")
    if target.exists() and (not target.is_file() or (source.exists() and target.samefile(source))):
        raise IoError(f"[batch] expected a file for the output beside the input ({target})")
