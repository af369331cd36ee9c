"""The lint: clang's C++ for OpenCL mode checks types and address spaces of a library.

Needs clang 15 or later. What it cannot say by itself is read off its syntax tree: a pointer or
reference without an address space, which OpenCL takes for a generic one and Metal refuses.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .emit_host import float_edits
from .lint_stdlib import stdlib
from .model import Edit, Library, apply_edits

_FLAGS = [
    *("-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-target", "x86_64-linux-gnu"),
    *("-fsyntax-only", "-Wall", "-Wno-unused", "-Wno-unknown-attributes", "-fno-caret-diagnostics"),
]
_MESSAGE = re.compile(r"(?P<file>[^:\n]+):(?P<line>\d+):(?:\d+:)? (?:fatal )?(?:error|warning): .*")


class NoClangError(Exception):
    """There is no clang that the lint can use."""


def find_clang() -> str:
    """Path of a clang of version 15 or later."""
    names = [*(f"clang-{version}" for version in range(25, 14, -1)), "clang"]
    for path in filter(None, map(shutil.which, names)):
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"clang version (\d+)", version.stdout)
        if match and int(match[1]) >= 15:
            return path
    raise NoClangError("the lint needs clang 15 or later")


def lint(library: Library, clang: str | None = None) -> list[str]:
    """Returns clang's complaints as `FILE:LINE:COLUMN: error: ..`; [] when there are none."""
    text = apply_edits(library.text, library.edits + float_edits(library) + _edits(library))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "metal_stdlib").write_text(stdlib(), encoding="utf-8")
        command = [clang or find_clang(), *_FLAGS, "-I", folder, "-"]
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        found = [m[0] for m in _MESSAGE.finditer(result.stderr)]
        if result.returncode != 0:
            return found or [result.stderr]
        command[1:1] = ["-w", "-Xclang", "-ast-dump=json"]
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return found + list(_without_address_space(json.loads(result.stdout)))


def _edits(library: Library) -> list[Edit]:
    """A function constant is an ordinary one here."""
    edits = []
    for constant in library.constants:
        end = next(t for t in library.tokens if t.start > constant.token.start and t.text == ";")
        edits.append(Edit(end.start, end.start, f" = {constant.default}"))
    return edits


def _without_address_space(tree: Any) -> Iterator[str]:
    """Declarations of the library that have generic pointers; clang tells places incrementally."""
    file, line = "", 0
    todo = [tree]
    while todo:
        node = todo.pop()
        if not isinstance(node, dict):
            continue
        for place in (node.get("loc"), (node.get("range") or {}).get("begin")):
            place = (place or {}).get("expansionLoc", place) or {}
            file = place.get("presumedFile", place.get("file", file))
            line = place.get("presumedLine", place.get("line", line))
        kind = (node.get("type") or {}).get("qualType", "")
        if (
            node.get("kind") in ("VarDecl", "ParmVarDecl", "FieldDecl")
            and "__generic" in kind
            and not node.get("isImplicit")
            and not file.endswith("metal_stdlib")
        ):
            name = node.get("name", "")
            yield f"{file}:{line}:1: error: {name}: pointer or reference without an address space"
        if not node.get("isImplicit"):
            todo += reversed(node.get("inner") or [])
