"""Mutants of C++ and Objective-C++: a copy of the checkout, built anew after each edit."""

import time
from pathlib import Path

from mutant import Broken, Kind, Mutant, Verdict, build, copy_checkout, run

TRIES = 3  # what is broken may need bad luck to show


class Cpp(Kind):
    """`target` is the executable with the tests; `Mutant.test` is part of a test case's name."""

    def __init__(self, work: Path, target: str, folder: str, *options: str) -> None:
        binaries = work / "build/cpp"
        self.tree, self.binary = work, binaries / folder / target
        self.build = (work, binaries, target, "-DMOEFLUX_TESTS=ON", *options)
        self.limits: dict[str, float] = {}  # seconds that a test may take

    def prepare(self, mutants: list[Mutant]) -> None:
        copy_checkout(self.tree)
        build(*self.build)
        for name in sorted({mutant.test for mutant in mutants}):
            begin = time.monotonic()
            if words := self._failure(name):
                raise Broken(f"{name}: {words}")
            self.limits[name] = 30 + 10 * (time.monotonic() - begin)

    def judge(self, group: list[Mutant]) -> list[Verdict]:
        (mutant,) = group
        file = self.tree / mutant.file
        text = file.read_text()
        try:
            file.write_text(mutant.edited(text))
            build(*self.build)
            tries, words = 0, ""
            while tries < TRIES and not words:
                tries, words = tries + 1, self._failure(mutant.test)
            return [(words, tries)]
        finally:
            file.write_text(text)

    def _failure(self, name: str) -> str:
        """How the test cases whose names contain `name` fail; empty: they pass."""
        escaped = name.replace(",", "\\,")
        done = run(self.binary, f"--test-case=*{escaped}*", timeout=self.limits.get(name))
        if "test cases: 0 " in done.stdout.replace("  ", " "):
            raise Broken(f"no test is called {name}")
        if done.returncode < 0:
            return f"ended by signal {-done.returncode}"
        lines = done.stdout.splitlines() or ["failed"]
        errors = [line for line in lines if "ERROR" in line] or lines
        return errors[0].rpartition("ERROR: ")[2] if done.returncode else ""
