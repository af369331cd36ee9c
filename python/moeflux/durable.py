"""Files that are whole or absent: written under another name, synced, then renamed.

Knows no format. `synth`, `pack`, `convert` and files of snapshots build on it: whatever kills them,
a file of its final name is complete. The commands go on from there when they are run again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .checkpoint import read_json
from .errors import FormatError, IoError

PART = ".part"
_HELD = (errno.EAGAIN, errno.EACCES)
SPARE_BYTES = 64 << 20  # left free: a file system that is filled to the brim serves nobody


def existing_parent(path: Path) -> Path:
    """`path` if it is a folder, else the nearest folder above it that exists."""
    return next((p for p in (path, *path.parents) if p.is_dir()), Path(tempfile.gettempdir()))


def require_space(target: Path, nbytes: int, tag: str, files: Iterable[Path] = ()) -> None:
    """Refuses before anything is written.

    Args:
        target: where `nbytes` more are to go; it need not exist yet.
        nbytes: what is still to be written.
        tag: names the command in the message.
        files: what is to be written. A part of one that an interrupted run left counts as room: it
            is written again from its begin.

    Raises:
        IoError: the disk has no room for it.
    """
    folder = existing_parent(target)
    parts = (file.with_name(file.name + PART) for file in files)
    free = shutil.disk_usage(folder).free + sum(map(_allocated_bytes, parts))
    if nbytes + SPARE_BYTES > free:
        raise IoError(
            f"[{tag}] the disk is short: expected {nbytes + SPARE_BYTES:,} free bytes, "
            f"found {free:,} ({folder})"
        )


def _allocated_bytes(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


@contextmanager
def alone(folder: Path, tag: str) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made where it is not there.

    The system ends it with the process. Where the file system has no locks it does nothing.

    Args:
        folder: that the block writes to.
        tag: names the command in the message.

    Raises:
        IoError: another run is at work there.
        OSError: there is no such folder, and none can be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            os.close(descriptor)
            raise IoError(f"[{tag}] expected no other run in the folder, found one at work "
                          f"({folder})") from None  # fmt: skip
    try:
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(part: Path, final: Path) -> None:
    """Gives a complete, synced file its final name."""
    os.replace(part, final)
    sync_folder(final.parent)


def new_part(path: Path, buffering: int = -1) -> BinaryIO:
    """The part of a file to be: always a new file, whatever has its name by now.

    What an earlier run left is removed. A link is not followed, and a run that still has the old
    part open writes to a file without a name.
    """
    part = path.with_name(path.name + PART)
    part.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(part, flags, 0o666), "wb", buffering=buffering)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it appears as `path` when the block ends well, synced and complete."""
    part = path.with_name(path.name + PART)
    with new_part(path) as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    publish(part, path)


@contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """As `whole_file`, for its owner's eyes; unless it becomes whole, nothing is left of it.

    Of a process that is killed the part `.NAME.part` is left, until the next writer of this file
    takes it. Several writers come one after another, and the last one wins. Through a symbolic link
    the file that it names is written.

    Raises:
        OSError: it cannot be written, or is there and no regular file.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "expected a regular file, found another kind", str(path))
    part = path.with_name(f".{path.name}{PART}")
    with _locked(part, wait=True) as stream:
        try:
            stream.truncate(0)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            publish(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """Nobody else holds `path` so during the block. `.NAME.lock` beside it says so.

    Raises:
        BlockingIOError: somebody does, in this process or another one.
        OSError: its folder takes no file.
    """
    path = Path(os.path.realpath(path))
    lock = path.with_name(f".{path.name}.lock")
    with _locked(lock, wait=False):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[BinaryIO]:
    """A private file that nobody else has locked. Whoever has may rename or remove it.

    Raises:
        BlockingIOError: somebody has it, where this does not wait.
        OSError: it cannot be opened, or is another user's, or of another kind.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        with open(os.open(path, flags, 0o600), "r+b") as stream:
            info = os.fstat(stream.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid():
                raise OSError(errno.EPERM, "expected a regular file of this user", str(path))
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _still_named(path, info):  # while this waited it may have been published or removed
                os.fchmod(stream.fileno(), 0o600)
                yield stream
                return


def _still_named(path: Path, info: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.lstat(path), info)
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """A small file, whole or absent."""
    with whole_file(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """A JSON file, whole or absent; without indentation, which takes seconds for a vocabulary."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent))


def claim(
    folder: Path, note: str, wanted: dict[str, Any], tag: str, what: str, grown: str = ""
) -> None:
    """Notes in `folder` what is to be written there, or checks that this is what is noted.

    Killed at any moment it leaves a folder that the next call takes up: a new one, an empty one, or
    one with the whole note or a part of it and nothing else.

    Args:
        folder: to be created, empty, or claimed by an earlier run for the same.
        note: name of the JSON file.
        wanted: what makes two runs the same; JSON.
        tag: names the command in messages.
        what: what the folder is to hold, for messages.
        grown: a key of the note that is not compared: the command has added it.

    Raises:
        FormatError: it holds other files, or is noted to hold something else.
        IoError: the note cannot be read.
        OSError: it cannot be written.
    """
    path = folder / note
    if path.is_symlink():
        raise FormatError(f"[{tag}] expected a file, found a symbolic link ({path})")
    if path.exists():
        found = read_json(path)
        for key in sorted((wanted.keys() | found.keys()) - {grown}):
            if found.get(key) != wanted.get(key):
                raise FormatError(
                    f"[{tag}] the folder holds another {what}: expected {key} "
                    f"{_short(wanted.get(key))}, found {_short(found.get(key))} ({path})"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    if any(entry.name != note + PART for entry in folder.iterdir()):
        raise FormatError(
            f"[{tag}] expected a new or empty folder, or one of an earlier run ({folder})"
        )
    write_json(path, wanted, indent=1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
