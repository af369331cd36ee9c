"""The lines of a batch: read once for their order, then again one by one. Strangers wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ... import files
from ...errors import FormatError
from ..http.errors import ApiError
from ..http.limits import parse_object

URLS = ("/v1/chat/completions", "/v1/completions")
MAX_LINE = 16 << 20  # bytes; as the server's bound of a body
MAX_ID = 512  # characters of a custom_id
BLOCK = 128  # characters of a prompt that make a step of its key
MARK = b"\xef\xbb\xbf"  # that some editors put before UTF-8
PIECE = 1 << 20


class LineError(Exception):
    """A line that is no request: a sentence, and its custom_id where that could be read."""

    def __init__(self, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.custom_id = custom_id


@dataclass(frozen=True)
class Request:
    """What a line asks."""

    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line that is not blank.

    Attributes:
        index: of its row in the output.
        number: of the line, from 1.
        offset: of its first byte.
        nbytes: with its end.
        digest: SHA-256 of its bytes without white space around them.
        key: prompts that begin alike have keys that begin alike.
    """

    index: int
    number: int
    offset: int
    nbytes: int
    digest: bytes
    key: bytes


@dataclass(frozen=True)
class Input:
    """A file of requests.

    Attributes:
        path: of the file.
        digest: SHA-256 of all of it, in hexadecimal.
        rows: in the order of the file.
    """

    path: Path
    digest: str
    rows: tuple[Row, ...]


def scan(path: Path) -> Input:
    """Reads all lines.

    Raises:
        IoError: the file cannot be read, or is no regular file.
        FormatError: a custom_id is there twice, or there is no line at all.
    """
    whole, seen = hashlib.sha256(), dict[str, int]()
    rows: list[Row] = []
    with files.regular_file(path) as (stream, _):
        for number, offset, nbytes, line, digest in _lines(stream, whole):
            if line == b"":
                continue
            custom_id, key = _known(line)
            if custom_id is not None and seen.setdefault(custom_id, number) != number:
                raise FormatError(
                    f"[batch] expected each custom_id once, found {custom_id[:80]!r} on lines "
                    f"{seen[custom_id]} and {number} ({path})"
                )
            rows.append(Row(len(rows), number, offset, nbytes, digest, key))
    if not rows:
        raise FormatError(f"[batch] expected a request a line, found no line ({path})")
    return Input(path, whole.hexdigest(), tuple(rows))


def _lines(stream: BinaryIO, whole: Any) -> Iterator[tuple[int, int, int, bytes | None, bytes]]:
    """(number, offset, bytes, text, digest) of each line; the text of one that is too long: None.

    Of such a line only a piece is in memory at a time.
    """
    offset = number = 0
    while piece := stream.readline(PIECE):
        number += 1
        begin, text, digest = offset, bytearray(), hashlib.sha256()
        while piece:
            offset += len(piece)
            whole.update(piece)
            if len(text) <= MAX_LINE:
                text += piece
            else:
                digest.update(piece)
            if piece.endswith(b"\n"):
                break
            piece = stream.readline(PIECE)
        line = _stripped(bytes(text), number)
        digest.update(line)
        is_long = len(text) > MAX_LINE
        yield number, begin, offset - begin, None if is_long else line, digest.digest()


def _stripped(line: bytes, number: int) -> bytes:
    return (line.removeprefix(MARK) if number == 1 else line).strip()


def sort_key(line: bytes | None) -> bytes:
    """What rows are sorted by: prompts that begin alike have keys that begin alike."""
    return _known(line)[1]


def _known(line: bytes | None) -> tuple[str | None, bytes]:
    """The custom_id of a line, and its key; those that are no requests come first."""
    try:
        request = parse(line)
    except LineError as error:
        return error.custom_id, b""
    return request.custom_id, _key(request)


def read(stream: BinaryIO, row: Row) -> bytes | None:
    """A line again; None for one that is too long.

    Raises:
        FormatError: it is another one by now.
    """
    if row.nbytes > MAX_LINE:
        return None
    stream.seek(row.offset)
    line = _stripped(stream.read(row.nbytes), row.number)
    if hashlib.sha256(line).digest() != row.digest:
        raise FormatError(f"[batch] line {row.number} has changed since the batch began; with "
                          "other requests begin another one")  # fmt: skip
    return line


def parse(line: bytes | None) -> Request:
    """What a line asks. Raises LineError for one that asks nothing that a batch can do."""
    if line is None:
        raise LineError(f"expected a line of at most {MAX_LINE} bytes")
    try:
        said = parse_object(line, "the line")
    except ApiError as error:
        raise LineError(error.message) from None
    custom_id = said.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        raise LineError(f"expected a custom_id of 1 to {MAX_ID} characters, found "
                        f"{_shown(custom_id)}")  # fmt: skip
    if said.get("method") != "POST":
        raise LineError(f"expected the method POST, found {_shown(said.get('method'))}", custom_id)
    url, body = said.get("url"), said.get("body")
    if url not in URLS:
        raise LineError(f"expected the url {' or '.join(URLS)}, found {_shown(url)}", custom_id)
    if not isinstance(body, dict):
        raise LineError(f"expected a body, a JSON object, found {_shown(body)}", custom_id)
    return Request(custom_id, str(url), body)


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)[:80]


def _key(request: Request) -> bytes:
    """A chain of hashes of the prompt's blocks, in the order in which templates write its parts.

    It is a sixteenth of the prompt, so that a long file's keys fit into memory.
    """
    text = _prompt(request.url, request.body)
    link, links = hashlib.blake2b(digest_size=8), []
    for at in range(0, len(text), BLOCK):
        link.update(text[at : at + BLOCK].encode())
        links.append(link.digest())
    return b"".join(links)


def _prompt(url: str, body: Mapping[str, Any]) -> str:
    if url == URLS[0]:
        parts = [body.get("chat_template_kwargs"), body.get("tools"), body.get("messages")]
        return "".join(json.dumps(part) for part in parts)
    prompt = body.get("prompt")
    return prompt if isinstance(prompt, str) else json.dumps(prompt)
