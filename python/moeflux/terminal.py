"""Text on its way to a terminal: that of strangers (models, files) and our own lines."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO


def escape_controls(text: str) -> str:
    """Text for a terminal: control characters and bytes that were no UTF-8 are shown as escapes."""
    shown = "".join(
        c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0) else f"\\x{ord(c):02x}"
        for c in text
    )
    return shown.encode("utf-8", "backslashreplace").decode()


def show(text: str, stream: TextIO | None = None) -> None:
    """Prints lines; a terminal narrower than one of them gets it broken between words."""
    stream = sys.stdout if stream is None else stream
    if stream.isatty():
        text = "\n".join(_fitted(line) for line in text.splitlines())
    print(text, file=stream)


def note(text: str) -> None:
    """`show` on standard error."""
    show(text, sys.stderr)


def _fitted(line: str) -> str:
    width = shutil.get_terminal_size().columns
    if len(line) <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip
