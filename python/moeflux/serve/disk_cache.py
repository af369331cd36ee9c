"""Snapshots in files of a folder, so that prompts outlive their memory and the server.

A file's name is a hash of the model, the scope and the tokens, so that the names and headers of a
folder are its index, and nobody reads from a name what was asked. Files of other models are let
alone, but grow old and go as all do: the bound is the folder's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import saved
from ..checkpoint import open_checkpoint
from ..durable import PART, require_space
from ..errors import FormatError, IoError, MemoryBudgetError
from ..log import logger
from ..model import Model
from ..snapshot import Snapshot, fingerprint

SUFFIX = ".mfs"
_NAME = re.compile(rf"[0-9a-f]{{64}}\{SUFFIX}")
_PART = re.compile(rf"\.[0-9a-f]{{64}}\{SUFFIX}\..*\{PART}")
DAY = 86_400.0  # seconds
OLD_PART = 3600.0  # seconds: a part that nobody has written to for so long was left by a crash


@dataclass
class Entry:
    """A file of the folder.

    Attributes:
        name: of it.
        nbytes: of it.
        position: tokens that it holds; 0 where it is another model's or cannot be read now: it
            counts for the bound alone.
        when: it was used last, in seconds since 1970.
    """

    name: str
    nbytes: int
    position: int
    when: float


class Day:
    """Bytes that may be written within a day: disks wear out.

    Args:
        most: of them.
        now: seconds since 1970. Clocks are set back: no write is later than one behind it.
        before: (seconds since 1970, bytes) of what was written before.
    """

    def __init__(self, most: int, now: float, before: Iterable[tuple[float, int]] = ()) -> None:
        self._most = most
        self._writes = deque(sorted((min(when, now), nbytes) for when, nbytes in before))
        self._nbytes = sum(nbytes for _, nbytes in self._writes)

    def take(self, nbytes: int, now: float) -> bool:
        """Counts a write, unless it is too much."""
        if self._writes and self._writes[-1][0] > now:
            self._writes = deque((min(when, now), size) for when, size in self._writes)
        while self._writes and self._writes[0][0] <= now - DAY:
            self._nbytes -= self._writes.popleft()[1]
        fits = self._nbytes + nbytes <= self._most
        if fits:
            self._writes.append((now, nbytes))
            self._nbytes += nbytes
        return fits

    def give_back(self, nbytes: int) -> None:
        """Of the last write that was counted, so many bytes were not written."""
        when, counted = self._writes.pop()
        self._writes.append((when, counted - nbytes))
        self._nbytes -= nbytes


class DiskCache:
    """Snapshots of one model in a folder. Any thread may use it.

    Args:
        folder: made where there is none.
        max_bytes: of all files together.
        model: whose they are.
        day_bytes: to write in 24 hours at most; files that were there at the start and are no
            older count. None: any number.

    Attributes:
        counts: files "read", "written", "damaged", "failed" and "refused" (for the day's bytes).

    Raises:
        IoError: the folder cannot be used, or others can write to it.
        FormatError: the checkpoint is no longer what was loaded.
    """

    def __init__(
        self, folder: Path, max_bytes: int, model: Model, day_bytes: int | None = None
    ) -> None:
        self._folder, self._max_bytes, self._model = folder, max_bytes, model
        self._lock = threading.Lock()  # over the index
        self._index: dict[str, Entry] = {}
        self._positions: Counter[int] = Counter()  # files of this model by their length
        self._nbytes = 0
        self.counts: Counter[str] = Counter()
        self._fails = False  # the last write has
        self._refuses = False  # it was too much for the day
        native = model._native
        own = fingerprint(native, model._identity, native.snapshot_form(1 << 24))
        said = json.dumps([own, _stamps(model.path)], sort_keys=True)
        self._base = hashlib.sha256(said.encode())
        _private_folder(folder)
        self._scan()
        most = 1 << 62 if day_bytes is None else day_bytes
        before = [(entry.when, entry.nbytes) for entry in self._index.values()]
        self._day = Day(most, time.time(), before)

    def __len__(self) -> int:
        return self._positions.total()

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return self._nbytes

    def find(self, ids: Sequence[int], scope: str) -> Entry | None:
        """The longest that `ids` begin with and that leaves a token of them to compute."""
        tokens = np.asarray(ids, dtype="<u4")
        hashed, at, best = self._hash(scope), 0, None
        with self._lock:
            for position in sorted(p for p in self._positions if p < len(tokens)):
                hashed.update(tokens[at:position].tobytes())
                at = position
                found = self._index.get(hashed.copy().hexdigest() + SUFFIX)
                best = found if found is not None and found.position else best
        return best

    def name(self, ids: Sequence[int], scope: str) -> str:
        """Of the file of exactly these tokens."""
        hashed = self._hash(scope)
        hashed.update(np.asarray(ids, dtype="<u4").tobytes())
        return hashed.hexdigest() + SUFFIX

    def has(self, ids: Sequence[int], scope: str) -> bool:
        """Whether there is one of exactly these tokens."""
        with self._lock:
            entry = self._index.get(self.name(ids, scope))
            return entry is not None and entry.position > 0

    def read(
        self,
        entry: Entry,
        ids: Sequence[int],
        progress: Callable[[int, int], object] | None = None,
    ) -> Snapshot | None:
        """A snapshot of the first of `ids`; None where the file is gone, damaged or too large."""
        path = self._folder / entry.name
        try:
            found = Snapshot.read(self._model, path, progress=progress)
            if found.tokens is None or found.tokens.tolist() != list(ids[: entry.position]):
                raise FormatError(f"[serve] expected the tokens of its name, found others ({path})")
        except FormatError as error:
            self._damaged(entry, error)
            return None
        except IoError as error:
            self._pass_over(entry, error)
            return None
        except MemoryBudgetError:
            return None
        entry.when = time.time()
        with contextlib.suppress(OSError):
            os.utime(path)
        self.counts["read"] += 1
        return found

    def write(
        self,
        ids: Sequence[int],
        scope: str,
        snapshot: Snapshot,
        progress: Callable[[int, int], object] | None = None,
    ) -> bool:
        """Keeps a snapshot of `ids`. False where a bound forbids it, or the disk fails."""
        name, position = self.name(ids, scope), snapshot.position
        state = self._model._native.snapshot_form(position)["nbytes"]
        nbytes = saved.file_bytes(state, position)
        if nbytes > self._max_bytes:
            return False
        if not self._fits_day(nbytes):
            return False
        self._make_room(nbytes)
        path, written = self._folder / name, 0

        def watch(done: int, total: int) -> None:
            nonlocal written
            written = min(done, nbytes)
            if progress is not None:
                progress(done, total)

        try:
            require_space(self._folder, nbytes, "serve")
            snapshot.write(path, tokens=ids, progress=watch)
            entry = Entry(name, path.stat().st_size, position, time.time())
        except BaseException as error:
            with self._lock:
                self._day.give_back(nbytes - written)  # what is missing counts no more
            if not isinstance(error, OSError):  # an IoError is one
                raise
            self.counts["failed"] += 1
            if not self._fails:
                logger.warning("prompts are not kept on disk: %s", str(error))
            self._fails = True
            return False
        self._fails = False
        self.counts["written"] += 1
        with self._lock:
            self._add(entry)
        self._make_room(0)
        return True

    def _fits_day(self, nbytes: int) -> bool:
        with self._lock:
            fits = self._day.take(nbytes, time.time())
        if not fits:
            self.counts["refused"] += 1
            if not self._refuses:
                logger.warning("prompts are not kept on disk: as much as may be was written in a "
                               "day")  # fmt: skip
        self._refuses = not fits
        return fits

    def _hash(self, scope: str) -> hashlib._Hash:
        hashed = self._base.copy()
        hashed.update(f"{scope}\0".encode())
        return hashed

    def _add(self, entry: Entry) -> None:
        self._forget(entry.name)
        self._index[entry.name] = entry
        self._nbytes += entry.nbytes
        if entry.position:
            self._positions[entry.position] += 1

    def _forget(self, name: str) -> None:
        entry = self._index.pop(name, None)
        if entry is None:
            return
        self._nbytes -= entry.nbytes
        if entry.position:
            self._positions -= Counter([entry.position])  # which forgets those without a file

    def _make_room(self, nbytes: int) -> None:
        """Removes the files that were not used for longest, until so many bytes are free."""
        with self._lock:
            for entry in sorted(self._index.values(), key=lambda e: e.when):
                if self._nbytes + nbytes <= self._max_bytes:
                    return
                self._forget(entry.name)
                with contextlib.suppress(OSError):
                    (self._folder / entry.name).unlink()

    def _damaged(self, entry: Entry, error: Exception) -> None:
        with self._lock:
            self._forget(entry.name)
        self.counts["damaged"] += 1
        logger.warning("a kept prompt is removed: %s", str(error))
        with contextlib.suppress(OSError):
            (self._folder / entry.name).unlink()

    def _pass_over(self, entry: Entry, error: Exception) -> None:
        with self._lock:
            self._forget(entry.name)
            if not (self._folder / entry.name).exists():
                return  # it is another server's doing, or somebody's
            self._add(replace(entry, position=0))
        logger.warning("a kept prompt is passed over: %s", str(error))

    def _scan(self) -> None:
        """Takes up what is in the folder, by headers."""
        for name, info in _regular_files(self._folder):
            path = self._folder / name
            if _PART.fullmatch(name) and info.st_mtime < time.time() - OLD_PART:
                with contextlib.suppress(OSError):
                    path.unlink()
            if not _NAME.fullmatch(name):
                continue
            entry = Entry(name, info.st_size, 0, info.st_mtime)
            try:
                entry.position = self._own_position(path)
            except saved.OtherVersion:
                self._add(entry)
            except FormatError as error:
                self._damaged(entry, error)
            except IoError as error:
                self._pass_over(entry, error)
            else:
                self._add(entry)
        self._make_room(0)

    def _own_position(self, path: Path) -> int:
        """Tokens of a file; 0 where it is another model's, or is longer than the context."""
        native = self._model._native
        with saved.opened(path) as file:
            form = native.snapshot_form(file.header.position)
            own = fingerprint(native, self._model._identity, form)
            fits = file.header.model == own and file.header.position <= form["context"]
            return file.header.position if fits else 0


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """Of a checkpoint's files: the fingerprint looks at a few weights of them alone."""
    checkpoint = open_checkpoint(path)
    try:
        found = [(file.name, file.stat()) for file in checkpoint.files]
    except OSError as error:
        raise IoError(f"[serve] cannot read the model's files: {error}") from None
    return [(name, info.st_size, info.st_mtime_ns) for name, info in found]


def _regular_files(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Those that are there; another server may remove some meanwhile."""
    found = []
    try:
        with os.scandir(folder) as files:
            for file in files:
                with contextlib.suppress(OSError):
                    found.append((file.name, file.stat(follow_symlinks=False)))
    except OSError as error:
        raise IoError(f"[serve] cannot keep prompts: {error.strerror} ({folder})") from None
    return [(name, info) for name, info in found if stat.S_ISREG(info.st_mode)]


def _private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.stat()
    except OSError as error:
        raise IoError(f"[serve] cannot keep prompts: {error.strerror} ({folder})") from None
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or info.st_uid != os.geteuid():
        mode = f"{stat.S_IMODE(info.st_mode):04o}"
        raise IoError(f"[serve] expected a folder that nobody else can write to, found mode {mode} "
                      f"of user {info.st_uid} ({folder})")  # fmt: skip
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise IoError(f"[serve] expected a folder to read and write ({folder})")
