"""Reads a whole library: what the writers and the tests start from."""

from __future__ import annotations

from pathlib import Path

from .annotations import annotate, check_names
from .instantiate import instantiate
from .model import Library
from .parse import Parser
from .rules import check
from .source import flatten


def read_library(files: list[Path]) -> Library:
    """Parses and checks `files` together, as Metal will compile them. Raises MslError."""
    return parse_library(flatten(files))


def parse_library(text: str) -> Library:
    """The same for a text that is flattened already."""
    parser = Parser(instantiate(text))
    library = parser.library()
    check(library, parser.directives)
    check_names(library.kernels)
    for kernel in library.kernels:
        annotate(kernel)
    return library
