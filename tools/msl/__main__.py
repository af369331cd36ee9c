"""Command line: `python -m msl generate|lint ...` with tools/ on PYTHONPATH."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .emit_host import emit_host
from .emit_source import emit_source
from .emit_table import emit_table
from .errors import MslError
from .library import read_library
from .lint import lint
from .source import shader_files


def main() -> int:
    parser = argparse.ArgumentParser(prog="msl", description="front end of shaders/")
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="write the C++ sources that the build compiles")
    generate.add_argument("--out", type=Path, required=True, help="folder to write to")
    generate.add_argument("files", type=Path, nargs="+", help=".metal files")
    check = commands.add_parser("lint", help="check types and address spaces with clang")
    check.add_argument("folder", type=Path, help="where the .metal files are")
    options = parser.parse_args()
    try:
        lints = options.command == "lint"
        library = read_library(shader_files(options.folder) if lints else sorted(options.files))
    except MslError as error:
        print(f"{error.file}:{error.line}: error: {error.message}", file=sys.stderr)
        return 1
    if lints:
        complaints = lint(library)
        print("\n".join(complaints), file=sys.stderr, end="\n" if complaints else "")
        return 1 if complaints else 0
    options.out.mkdir(parents=True, exist_ok=True)
    outputs = {
        "kernel_table.cpp": emit_table(library),
        "host_kernels.cpp": emit_host(library),
        "library_source.cpp": emit_source(library.text),
    }
    for name, text in outputs.items():
        path = options.out / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # spares compiling it
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
