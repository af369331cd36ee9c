"""Removes each barrier of the shaders in turn: the checks of the host device must notice.

    python tools/mutants/barriers.py [--both] [FILE:LINE ...]

Plain: the kernels that reach the barrier, against their oracles, under five schedules. Thread: the
same under thread sanitizer, where plain saw nothing (with --both: always). Exit code 1 when a
barrier that SURVIVORS does not name can go unnoticed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from msl.library import read_library  # noqa: E402  (needs the line above)

SHADERS = ROOT / "shaders"
WORK = ROOT / "build" / "mutants"
_BARRIER = re.compile(r"\b(?:threadgroup|simdgroup)_barrier\([^;]*;")

# FILE:FUNCTION:N (the N-th barrier of the function) -> why nothing can notice its absence.
SURVIVORS: dict[str, str] = {}

TESTS = {
    "plain": "tests/shaders/test_schedules.py::test_schedules_give_the_same_bits[{}]",
    "thread": "tests/kernels/test_kernels.py::test_drawn_shapes[host-{}]",
}


@dataclass(frozen=True)
class Barrier:
    """One barrier of the sources."""

    file: str
    line: int
    start: int  # offsets in the file
    end: int
    name: str  # FILE:FUNCTION:N
    kernels: tuple[str, ...]  # that reach it


def find_barriers() -> list[Barrier]:
    library = read_library(sorted(SHADERS.glob("*.metal")))
    functions = [
        (library.tokens[f.body[0]], library.tokens[f.body[1]], f.name) for f in library.functions
    ]
    kernels = {k.name: {k.name} | library.calls.callees(k.name) for k in library.kernels}
    found = []
    for path in sorted([*SHADERS.glob("*.h"), *SHADERS.glob("*.metal")]):
        text = path.read_text(encoding="utf-8")
        count: dict[str, int] = {}
        for match in _BARRIER.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            function = next(
                name
                for first, last, name in functions
                if first.file == path.name and first.line <= line <= last.line
            )
            count[function] = count.get(function, 0) + 1
            reaching = tuple(sorted(k for k, names in kernels.items() if function in names))
            name = f"{path.name}:{function}:{count[function]}"
            found.append(Barrier(path.name, line, match.start(), match.end(), name, reaching))
    return found


def write_mutant(barrier: Barrier | None) -> Path:
    """A copy of the shaders without the barrier."""
    folder = WORK / "shaders"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SHADERS, folder)
    if barrier:
        text = (folder / barrier.file).read_text(encoding="utf-8")
        blank = re.sub(r"[^\n]", " ", text[barrier.start : barrier.end - 1]) + ";"
        (folder / barrier.file).write_text(text[: barrier.start] + blank + text[barrier.end :])
    return folder


def passes(flavour: str, kernels: tuple[str, ...], shaders: Path) -> bool:
    """Whether the tests of these kernels pass; what they print goes to a log."""
    environment = dict(
        os.environ,
        PYTHON=sys.executable,
        SHADERS=str(shaders),
        BUILD=str(WORK / flavour),
        TESTS=" ".join(TESTS[flavour].format(k) for k in kernels),
    )
    with (WORK / f"{flavour}.log").open("w") as log:
        command = [str(ROOT / "tests/shaders/kernel_checks.sh"), flavour, "-x"]
        code = subprocess.run(
            command, env=environment, stdout=log, stderr=log, check=False
        ).returncode
    output = (WORK / f"{flavour}.log").read_text()
    ran = " passed" in output or " failed" in output or "ThreadSanitizer: data race" in output
    if not ran:
        raise SystemExit(f"the {flavour} tests did not run:\n{output[-3000:]}")
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--both", action="store_true", help="thread sanitizer always")
    parser.add_argument("only", nargs="*", metavar="FILE:LINE")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    barriers = [
        b for b in find_barriers() if not options.only or f"{b.file}:{b.line}" in options.only
    ]
    everything = tuple(sorted({k for b in barriers for k in b.kernels}))
    for flavour in TESTS:
        if not passes(flavour, everything, write_mutant(None)):
            raise SystemExit(f"the {flavour} tests fail with all barriers in place")
    counts = {"plain": 0, "thread": 0, "unnoticed": 0}
    wrong = 0
    for barrier in barriers:
        shaders = write_mutant(barrier)
        seen: list[str] = []
        for flavour in TESTS:
            if (not seen or options.both) and not passes(flavour, barrier.kernels, shaders):
                seen.append(flavour)
                counts[flavour] += 1
        counts["unnoticed"] += not seen
        expected = barrier.name in SURVIVORS
        wrong += bool(seen) == expected
        note = "" if bool(seen) != expected else "  <- not as SURVIVORS says"
        print(
            f"{barrier.file}:{barrier.line} {barrier.name}: {' '.join(seen) or '-'}{note}",
            flush=True,
        )
    print(f"{len(barriers)} barriers removed in turn; noticed by {counts}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
