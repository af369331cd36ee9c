"""A library that makes the disk of a process bad: tests/soak/faulty_pread.cpp, to be preloaded."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "soak/faulty_pread.cpp"


def shim(folder):
    """The compiled library, in this folder."""
    library = folder / "faulty_pread.so"
    compiler = shutil.which("g++") or shutil.which("c++")
    subprocess.run(
        [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-U_FILE_OFFSET_BITS", "-o",
         str(library), str(SOURCE), "-ldl"],
        check=True,
    )  # fmt: skip
    return library
