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
from pathlib import Path

from metal_mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
TESTS = "moeflux_metal_tests"
TIMEOUT_S = 120  # a hang is noticed, too


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def copy_checkout(work: Path) -> None:
    """The tracked files, so that a mutant never stays in a working tree."""
    for name in run("git", "ls-files", cwd=ROOT).stdout.splitlines():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            shutil.copy(ROOT / name, target)


def build(work: Path) -> str:
    """Builds the tests; the compiler's words if that fails."""
    if not (work / "build/CMakeCache.txt").exists():
        options = ("-DMOEFLUX_TESTS=ON", "-DMOEFLUX_METAL=STANDIN")
        configured = run("cmake", "-S", ".", "-B", "build", *options, cwd=work)
        if configured.returncode:
            return configured.stdout + configured.stderr
    built = run("cmake", "--build", "build", "-j2", "--target", TESTS, cwd=work)
    return built.stdout + built.stderr if built.returncode else ""


def failures(work: Path) -> str:
    """What the tests say when they fail; empty: they pass."""
    tests = work / "build/tests/cpp/metal" / TESTS
    try:
        result = subprocess.run(
            [tests], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode() + "\ntimed out"
    return result.stdout if result.returncode else ""


def judge(work: Path, mutant: Mutant) -> str:
    """Empty if the mutant's test failed, else what happened instead."""
    file = work / mutant.file
    text = file.read_text()
    if text.count(mutant.old) != 1:
        return f"'{mutant.old}' stands {text.count(mutant.old)} times"
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        if words := build(work):
            return f"does not compile:\n{words}"
        report = failures(work)
    finally:
        file.write_text(text)
    cases = [line for line in report.splitlines() if line.startswith("TEST CASE:")]
    if any(mutant.test in case for case in cases):
        return ""
    return "went unnoticed" if not report else f"failed others: {cases}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build/mutants-metal")
    parser.add_argument("--only", default="", help="mutants whose file or text contains this")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    copy_checkout(work)
    if words := build(work) or failures(work):
        print(f"the tests fail as they are:\n{words}")
        return 1
    missed = 0
    for mutant in MUTANTS:
        if arguments.only not in mutant.file + mutant.old:
            continue
        found = judge(work, mutant)
        missed += bool(found)
        print(f"{mutant.file}: {mutant.old!r}: {found or 'noticed'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
