"""Writes symbols.json: which library of Apple's exports a symbol, by witness of Apple's own linker.

Usage: witnesses.py FOLDER (of macOS wheels).

A stub that names the wrong library links here and fails on import there, so the table is not
written by hand. PyPI's macOS wheels hold binaries made with Apple's SDK, and each records from
which library it takes each symbol. An import by a binary for macOS 14 or earlier shows that the
name was there by then; a weak import at least where it lives. The shipped table was made from
(pip download --no-deps --only-binary=:all: --python-version 3.12 --platform ...)
  macosx_10_13_universal2: pyobjc-core 13.0, pyobjc-framework-Cocoa 13.0, -Metal 12.2.2
  macosx_11_0_arm64: coremltools 9.0, duckdb 2.0.1, pywhispercpp 1.5.1, torch 2.11.0
  macosx_11_0_universal2: grpcio 1.85.3
  macosx_12_0_arm64: pyarrow 26.0.1
  macosx_13_0_arm64: quadrants 1.4.0
  macosx_13_0_universal2: iree-base-runtime 3.13.0
  macosx_14_0_arm64: faiss-cpu 1.15.1, onnxruntime 1.32.0, scipy 1.18.1, torch 2.14.1
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

from stubs import INSTALL_NAMES

NEWEST_MACOS = 14.0
LIBRARIES = sorted(set(INSTALL_NAMES) - {"libSystem"})


def _tool(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _target(binary: str) -> float:
    headers = _tool("llvm-objdump-19", "--macho", "--arch=arm64", "--private-headers", binary)
    found = re.search(r"LC_BUILD_VERSION.*?minos (\d+\.\d+)", headers, re.S) or re.search(
        r"LC_VERSION_MIN_MACOSX.*?version (\d+\.\d+)", headers, re.S
    )
    if found is None:
        raise SystemExit(f"{binary}: states no macOS version")
    return float(found[1])


def imports(binary: str) -> list[tuple[str, str, bool]]:
    """(library without version and suffix, symbol, weak) of every two-level import."""
    listed = _tool("llvm-nm-19", "-m", "--undefined-only", "--arch=arm64", binary)
    pattern = r"\(undefined\) (weak )?external (\S+) \(from (\S+?)(?:\.\d+)*\)"
    return [(m[3], m[2], bool(m[1])) for m in re.finditer(pattern, listed)]


def main(folder: Path) -> None:
    found: dict[str, set[str]] = {library: set() for library in LIBRARIES}
    homes: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as unpacked:
        for wheel in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if not name.endswith((".so", ".dylib")) or ".dSYM/" in name:
                        continue
                    binary = archive.extract(name, unpacked)
                    recent = _target(binary) > NEWEST_MACOS
                    for library, symbol, weak in imports(binary):
                        homes[symbol].add(library)
                        if library in found and (weak or not recent):
                            found[library].add(symbol)
    doubtful = {
        symbol: libraries
        for symbol, libraries in homes.items()
        if len(libraries) > 1 and libraries & set(LIBRARIES)
    }
    if doubtful:
        raise SystemExit(f"witnesses disagree: {doubtful}")
    text = json.dumps({library: sorted(names) for library, names in found.items()}, indent=1)
    Path(__file__).with_name("symbols.json").write_text(text + "\n")
    print({library: len(names) for library, names in found.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
