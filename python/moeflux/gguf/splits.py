"""The files of a model: one, or NAME-00001-of-0000N.gguf and so on, each with a head of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import IoError
from ..safetensors_header import fail
from .header import Header, read_header
from .keys import WHOLE, scalar

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.IGNORECASE)


def first(name: str) -> str:
    """The name of the first of these files."""
    found = _parts(name)
    return _named(name, found, 1) if found else name


def names(name: str) -> list[str]:
    """The names of all files of the model of which one has this name, in order."""
    found = _parts(name)
    return [_named(name, found, i + 1) for i in range(int(found[3]))] if found else [name]


def _parts(name: str) -> re.Match[str] | None:
    found = _NAME.fullmatch(name)
    return found if found and 1 <= int(found[2]) <= int(found[3]) else None


def _named(name: str, parts: re.Match[str], number: int) -> str:
    return f"{parts[1]}-{number:05}-of-{parts[3]}{name[-len('.gguf') :]}"


def _split(header: Header) -> tuple[int, int]:
    """Number of the file, from 0 on, and how many there are."""
    number, count = (scalar(header.metadata, f"split.{key}", WHOLE, header.path, 0)
                     for key in ("no", "count"))  # fmt: skip
    if number >= max(count, 1):
        raise fail("gguf", f"expected split.no below split.count, found {number} and {count}",
                   header.path)  # fmt: skip
    return number, max(count, 1)


def read_all(path: Path, read: Callable[[Path], Header] = read_header) -> list[Header]:
    """The heads of all files of a model, given any of them; only the first has the model's keys.

    Args:
        path: of one of them.
        read: gives the head of one file.

    Raises:
        IoError: a file is missing or cannot be read.
        FormatError: a file contradicts itself or the others.
    """
    header = read(path)
    number, count = _split(header)
    every = names(path.name)
    if count == 1:
        return [header]
    if len(every) != count or every[number].lower() != path.name.lower():
        raise fail("gguf", f"expected the name *-{number + 1:05}-of-{count:05}.gguf of file "
                   f"{number + 1} of {count}", path)  # fmt: skip
    headers = []
    for i, name in enumerate(every):
        other = header if i == number else _other(path.with_name(name), i, count, read)
        headers.append(other)
    total = scalar(headers[0].metadata, "split.tensors.count", WHOLE, headers[0].path)
    found = sum(1 for _ in _names(headers))
    if total != found:
        raise fail("gguf", f"expected {total!r} tensors (split.tensors.count) in {count} files, "
                   f"found {found}", path)  # fmt: skip
    return headers


def _other(path: Path, number: int, count: int, read: Callable[[Path], Header]) -> Header:
    try:
        header = read(path)
    except IoError as error:
        raise IoError(f"[gguf] expected {count} files of the model, found no file "
                      f"{number + 1}: {error}") from None  # fmt: skip
    if _split(header) != (number, count):
        no, n = _split(header)
        raise fail("gguf", f"expected file {number + 1} of {count}, found {no + 1} of {n}", path)
    return header


def _names(headers: list[Header]) -> Iterator[Any]:
    """Every tensor's name; refuses one that comes twice."""
    seen: set[str] = set()
    for header in headers:
        for entry in header.entries:
            if entry.name in seen:
                raise fail("gguf", f"expected each tensor in one file, found {entry.name!r} again",
                           header.path)  # fmt: skip
            seen.add(entry.name)
            yield entry.name
