"""Mutants of the shaders: every barrier removed, and the edits of kernels.toml.

Edits that touch different kernels share a build; which kernels an edit touches is read off the call
graph. The host device is built with its checks, and tests run under several schedules.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mutant import ROOT, Broken, Kind, Mutant, Verdict, build, copy_checkout, run

sys.path.insert(0, str(ROOT / "tools"))

from msl.library import read_library
from msl.model import Calls
from msl.source import shader_files

SEEDS = (0, 1, 2, 3)  # of schedules; 0: everything in order
BARRIER = re.compile(r"threadgroup_barrier\([^;]*\);")


class Kernels(Kind):
    """Any test of a kernel that an edit touches may notice it."""

    def __init__(self, work: Path) -> None:
        self.tree, self.folder = work, work / "build/cpp"
        paths = [path for path in (ROOT / "shaders").rglob("*") if path.suffix in (".h", ".metal")]
        self.texts = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}
        self.library = read_library(shader_files(ROOT / "shaders"))
        calls = Calls(self.library.functions)
        self.reached = {k.name: {k.name} | calls.callees(k.name) for k in self.library.kernels}

    def expand(self, listed: list[Mutant]) -> list[Mutant]:
        """Barriers, too; the anchor of each is the text before it."""
        return listed + [
            Mutant(file, match[0], "", anchor=text[: match.start()])
            for file, text in self.texts.items()
            for match in BARRIER.finditer(text)
        ]

    def groups(self, mutants: list[Mutant]) -> list[list[Mutant]]:
        """Edits that no kernel sees two of, together."""
        groups: list[list[Mutant]] = []
        for mutant in sorted(mutants, key=lambda mutant: -len(self._kernels(mutant))):
            seen = self._kernels(mutant)
            for group in groups:
                if all(seen.isdisjoint(self._kernels(other)) for other in group):
                    group.append(mutant)
                    break
            else:
                groups.append([mutant])
        return groups

    def prepare(self, mutants: list[Mutant]) -> None:
        copy_checkout(self.tree)
        for words, _ in self._try([], {0: set().union(*map(self._kernels, mutants))}):
            if words:
                raise Broken(words)

    def judge(self, group: list[Mutant]) -> list[Verdict]:
        return self._try(group, {mutant: self._kernels(mutant) for mutant in group})

    def _start(self, mutant: Mutant) -> int:
        return mutant.start(self.texts[mutant.file])

    def _kernels(self, mutant: Mutant) -> set[str]:
        """The kernels that an edit can change."""
        line = self.texts[mutant.file].count("\n", 0, self._start(mutant)) + 1
        tokens = self.library.tokens
        inside = {
            function.name
            for function in self.library.functions
            if tokens[function.first].file == Path(mutant.file).name
            and tokens[function.first].line <= line <= tokens[function.body[1]].line
        }
        return {name for name, names in self.reached.items() if names & inside}

    def _try(self, group: list[Mutant], touched: dict[Any, set[str]]) -> list[Verdict]:
        """What the tests of each entry's kernels say with the edits of a group."""
        self._build(group)
        found: dict[Any, Verdict] = {}
        for tries, seed in enumerate(SEEDS, 1):
            while left := [key for key in touched if key not in found]:
                names = self._failed(set().union(*(touched[key] for key in left)), seed)
                new = [key for key in left if touched[key] & names]
                found |= {key: (" ".join(touched[key] & names), tries) for key in new}
                if not new:
                    break  # else again: a fault ends the process before it comes to all
        return [found.get(key, ("", len(SEEDS))) for key in touched]

    def _build(self, group: list[Mutant]) -> None:
        """Makes the package in build/cpp/site, over shaders with the edits of a group alone."""
        for file, text in self.texts.items():
            for mutant in sorted(group, key=self._start, reverse=True):
                if mutant.file == file:
                    at = self._start(mutant)
                    text = text[:at] + mutant.new + text[at + len(mutant.old) :]
            if (self.tree / file).read_text() != text:
                (self.tree / file).write_text(text)
        python = f"-DPython_EXECUTABLE={sys.executable}"
        pybind11 = run(sys.executable, "-m", "pybind11", "--cmakedir").stdout.strip()
        options = ("-DMOEFLUX_PYTHON=ON", "-DMOEFLUX_HOST_CHECKS=ON", f"-Dpybind11_DIR={pybind11}")
        build(self.tree, self.folder, "_core", python, *options)
        site = self.folder / "site"
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(self.tree / "python/moeflux", site / "moeflux")
        for library in self.folder.glob("_core*.so"):
            shutil.copy(library, site / "moeflux")

    def _failed(self, kernels: set[str], seed: int) -> set[str]:
        """Kernels of which a test failed; the one that ended the process, if any did."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=no",
            "-rfE",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-p", "no:faulthandler", "--capture=sys"]  # the host device tells of a fault
        command += ["tests/kernels", *(f"--kernel={kernel}" for kernel in sorted(kernels))]
        settings = {"PYTHONPATH": str(self.folder / "site"), "MOEFLUX_HOST_SEED": str(seed)}
        done = run(*command, cwd=self.tree, env=os.environ | settings)
        names = set(re.findall(r"^(?:FAILED|ERROR) .*\[\w+-(\w+)[-\]]", done.stdout, re.M))
        if fault := re.search(r"kernel (\w+): memory fault", done.stderr):
            names.add(fault[1])
        elif done.returncode not in (0, 1):
            raise Broken(f"pytest failed: {(done.stdout + done.stderr)[-2000:]}")
        return names
