"""Flattens the library: own includes inlined once, `#line` says where each part came from.

The result is what every consumer reads: Metal's compiler at run time, the host compiler and the
lint at build time. So a helper that is defined twice, or used before its header, fails everywhere.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import MslError

_INCLUDE = re.compile(r'[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)[ \t]*(?://.*)?$')
_PRAGMA_ONCE = re.compile(r"[ \t]*#[ \t]*pragma[ \t]+once\b")


def shader_files(folder: Path) -> list[Path]:
    """The .metal files below `folder`, in the order in which a library is made of them."""
    return sorted(folder.rglob("*.metal"))


def flatten(files: list[Path]) -> str:
    """Returns one source text of `files` in their order; headers are named from their folders."""
    seen: set[Path] = set()
    return "".join(_inline(Path(file), seen) for file in files)


def _inline(path: Path, seen: set[Path]) -> str:
    if path in seen:
        return ""
    seen.add(path)
    out = [f'#line 1 "{path.name}"\n']
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include and include[1]:
            header = (path.parent / include[1]).resolve()
            if not header.is_file():
                raise MslError(path.name, number, f'no header "{include[1]}" from this file')
            out.append(_inline(header, seen))
            out.append(f'#line {number + 1} "{path.name}"\n')
        elif include and include[2] != "metal_stdlib":
            raise MslError(
                path.name, number, f"#include <{include[2]}>: only <metal_stdlib> is there"
            )
        elif _PRAGMA_ONCE.match(line):
            out.append("\n")
        else:
            out.append(line + "\n")
    return "".join(out)
