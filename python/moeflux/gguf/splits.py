"""The files of a model: one, or NAME-00001-of-0000N.gguf and so on, each with a head of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import IoError
from ..safetensors_header import fail
from .header import Header, read_header

_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.IGNORECASE)


def names(name: str) -> list[str]:
    """The names of all files of the model of which one has this name, in order."""
    found = _NAME.fullmatch(name)
    if found is None or not 1 <= int(found[2]) <= int(found[3]):
        return [name]
    suffix = name[-len(".gguf") :]
    return [f"{found[1]}-{i + 1:05}-of-{found[3]}{suffix}" for i in range(int(found[3]))]


def _split(header: Header) -> tuple[int, int]:
    """Number of the file, from 0 on, and how many there are."""
    number, count = (header.metadata.get(f"split.{key}", 0) for key in ("no", "count"))
    if type(number) is not int or type(count) is not int or not 0 <= number < max(count, 1):
        raise fail("gguf", f"expected split.no below split.count, found {number!r} and {count!r}",
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
    total, found = headers[0].metadata.get("split.tensors.count"), sum(1 for _ in _names(headers))
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
