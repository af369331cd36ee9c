#!/usr/bin/env python3
"""Links a Python extension for macOS arm64 with LLVM's ld64.lld, called as a compiler driver is.

Gives an MH_BUNDLE with chained fixups and an ad hoc signature, like Apple's linker. A driver would
pass `-undefined dynamic_lookup`, with which a misspelt name would link and fail on import there;
here only Python's own names may stay undefined, one by one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

LINKER, NM = "ld64.lld-19", "llvm-nm-19"  # Debian's lld-19 and llvm-19
MACOS = "14.0"


def linker_arguments(driver_arguments: list[str]) -> list[str]:
    """What of a compiler driver's command line is the linker's, without -undefined."""
    kept = []
    rest = iter(driver_arguments)
    for argument in rest:
        if argument.startswith("-Wl,"):
            kept += argument[4:].split(",")
        elif argument == "-Xlinker":
            kept.append(next(rest))
        elif argument in ("-o", "-framework", "-weak_framework"):
            kept += [argument, next(rest)]
        elif argument.startswith(("-l", "-L", "-F")) or not argument.startswith("-"):
            kept.append(argument)
    while "-undefined" in kept:
        at = kept.index("-undefined")
        del kept[at : at + 2]
    return kept


def python_names(objects: list[str]) -> list[str]:
    """The names of Python's C interface that the objects leave undefined."""
    listed = subprocess.run(
        [NM, "--undefined-only", "--format=just-symbols", *objects],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return sorted({name for name in listed.split() if re.match(r"__?Py", name)})


def main() -> int:
    arguments = linker_arguments(sys.argv[1:])
    objects = [a for a in arguments if a.endswith((".o", ".a"))]
    command = [
        LINKER, "-bundle", "-arch", "arm64", "-platform_version", "macos", MACOS, MACOS,
        "-syslibroot", os.environ["MOEFLUX_STUBS"], "-dead_strip", "-S", "-x",
        "-fatal_warnings", *arguments, "-lc++", "-lSystem", "-lcompiler_rt",
    ]  # fmt: skip
    for name in python_names(objects):
        command += ["-U", name]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
