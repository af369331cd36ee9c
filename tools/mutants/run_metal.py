"""Breaks the Metal device and the stand-in one way at a time; their C++ tests must notice each.

    python tools/mutants/run_metal.py [--work DIR] [--only TEXT]

Works on a copy of the checkout. Ends with 1 where the test that a mutant names did not fail. Needs
what `make metal-test` needs. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metal_mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300  # a hang is noticed, too


@dataclass(frozen=True)
class Suite:
    """An executable of C++ tests, how it is built and called, and what it must notice."""

    target: str
    folder: str  # of the executable, below the build folder
    options: tuple[str, ...]  # of CMake, beside MOEFLUX_TESTS
    arguments: tuple[str, ...]
    mutants: Sequence[Mutant]
    work: str  # where it is built, below build/


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def copy_checkout(work: Path) -> None:
    """The tracked files, so that a mutant never stays in a working tree."""
    for name in run("git", "ls-files", cwd=ROOT).stdout.splitlines():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            shutil.copy(ROOT / name, target)


def build(suite: Suite, work: Path) -> str:
    """Builds the tests; the compiler's words if that fails."""
    if not (work / "build/CMakeCache.txt").exists():
        options = ("-DMOEFLUX_TESTS=ON", *suite.options)
        configured = run("cmake", "-S", ".", "-B", "build", *options, cwd=work)
        if configured.returncode:
            return configured.stdout + configured.stderr
    built = run("cmake", "--build", "build", "-j2", "--target", suite.target, cwd=work)
    return built.stdout + built.stderr if built.returncode else ""


def failures(suite: Suite, work: Path) -> str:
    """What the tests say when they fail; empty: they pass."""
    tests = work / "build" / suite.folder / suite.target
    try:
        result = subprocess.run(
            [tests, *suite.arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode() + "\ntimed out"
    return result.stdout if result.returncode else ""


def judge(suite: Suite, work: Path, mutant: Mutant) -> str:
    """Empty if the mutant's test failed, else what happened instead."""
    file = work / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        return f"'{mutant.old}' stands {text.count(mutant.old)} times"
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        if words := build(suite, work):
            return f"does not compile:\n{words}"
        report = failures(suite, work)
    finally:
        file.write_text(text)
    cases = [line for line in report.splitlines() if line.startswith("TEST CASE:")]
    if any(mutant.test in case for case in cases):
        return ""
    return "went unnoticed" if not report else f"failed others: {cases}"


def main(suite: Suite, description: str) -> int:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / suite.work)
    parser.add_argument("--only", default="", help="mutants whose file or text contains this")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    copy_checkout(work)
    if words := build(suite, work) or failures(suite, work):
        print(f"the tests fail as they are:\n{words}")
        return 1
    missed = tried = 0
    for mutant in suite.mutants:
        if arguments.only not in mutant.file + mutant.old + mutant.new:
            continue
        found = judge(suite, work, mutant)
        tried += 1
        missed += bool(found)
        name = f"{mutant.old!r} -> {mutant.new!r}"
        print(f"{mutant.file}: {name}: {found or 'noticed'}", flush=True)
    print(f"{missed} of {tried} unnoticed")
    return 1 if missed else 0


if __name__ == "__main__":
    metal = Suite("moeflux_metal_tests", "tests/cpp/metal", ("-DMOEFLUX_METAL=STANDIN",), (),
                  MUTANTS, "mutants-metal")  # fmt: skip
    sys.exit(main(metal, __doc__ or ""))
