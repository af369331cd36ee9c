"""Mutants of the Python package: a copy with one edit in front of the installed one."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from mutant import ROOT, Broken, Kind, Mutant, Verdict, run


class Package(Kind):
    """`Mutant.test` is a test file and further arguments of pytest."""

    def __init__(self, work: Path, jobs: int) -> None:
        self.work, self.jobs = work, jobs
        core = run(sys.executable, "-c", "import moeflux._core as core; print(core.__file__)")
        self.core = Path(core.stdout.strip())

    def prepare(self, mutants: list[Mutant]) -> None:
        site = self._copy(0)
        show = (sys.executable, "-c", "import moeflux; print(moeflux.__file__)")
        if not (found := run(*show, env=self._environment(site)).stdout).startswith(str(site)):
            raise Broken(f"expected a package in {site}, found {found}: is it editable?")
        tests = sorted({mutant.test.split()[0] for mutant in mutants})
        together = ["-n", str(self.jobs), "--dist", "loadfile"]
        if words := self._failure(site, [*together, *tests], timeout=None):
            raise Broken(words)

    def judge(self, group: list[Mutant]) -> list[Verdict]:
        (mutant,) = group
        site = self._copy(mutant.number)
        try:
            file = site / Path(mutant.file).relative_to("python")
            file.write_text(mutant.edited(file.read_text()))
            return [(self._failure(site, shlex.split(mutant.test)), 1)]
        finally:
            shutil.rmtree(site)

    def _copy(self, number: int) -> Path:
        site = self.work / str(number)
        shutil.rmtree(site, ignore_errors=True)
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "python/moeflux", site / "moeflux", ignore=leave)
        shutil.copy(self.core, site / "moeflux")
        return site

    @staticmethod
    def _environment(site: Path) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}

    def _failure(self, site: Path, tests: list[str], **options: Any) -> str:
        """How the tests fail; empty: they pass."""
        command = [sys.executable, "-m", "pytest", "-qx", "--tb=line", "-p", "no:cacheprovider"]
        done = run(*command, *tests, env=self._environment(site), **options)
        if done.returncode < 0:
            return f"ended by signal {-done.returncode}"
        if done.returncode not in (0, 1):
            raise Broken(f"pytest says nothing: {(done.stdout + done.stderr)[-2000:]}")
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return (failed or [done.stdout[-200:]])[0] if done.returncode else ""
