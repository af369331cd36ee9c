"""Breaks the shaders one way at a time; the tests of the kernels must notice each.

    python tools/mutants/run_kernels.py [--work DIR] [--only TEXT] [--shard I/N]

Every barrier is removed in turn, and every edit of kernel_mutants.py is made. Edits that touch
different kernels share a build: which kernels an edit touches is read off the call graph. The host
device is built with its checks, and tests run under several schedules. A shard takes every Nth
build and needs a work folder of its own. Ends with 1 where an edit went unnoticed. About an hour on
two cores.
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

import pybind11

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

from kernel_mutants import MUTANTS, Mutant  # noqa: E402
from shards import shard  # noqa: E402

from msl.calls import Calls  # noqa: E402
from msl.library import read_library  # noqa: E402

SEEDS = (0, 1, 2, 3)  # 0: everything in order
BARRIER = re.compile(r"threadgroup_barrier\([^;]*\);")
SHADERS = {path.name: path.read_text() for path in sorted((ROOT / "shaders").iterdir())}


@dataclass
class Edit:
    """One mutant: `start`..`end` of a file's text becomes `new`."""

    file: str
    start: int
    end: int
    new: str
    line: int
    kernels: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.new or 'barrier removed'}"


def edits() -> list[Edit]:
    """All edits, with the kernels that each can change."""
    found = [listed(mutant) for mutant in MUTANTS]
    for file, text in SHADERS.items():
        for match in BARRIER.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Edit(file, match.start(), match.end(), "", line))
    library = read_library(sorted((ROOT / "shaders").glob("*.metal")))
    calls = Calls(library.functions)
    reached = {k.name: {k.name} | calls.callees(k.name) for k in library.kernels}
    for edit in found:
        inside = [
            function.name
            for function in library.functions
            if library.tokens[function.first].file == edit.file
            and library.tokens[function.first].line
            <= edit.line
            <= library.tokens[function.body[1]].line
        ]
        assert len(inside) == 1, f"{edit}: in no function"
        edit.kernels = frozenset(name for name, names in reached.items() if inside[0] in names)
        assert edit.kernels, f"{edit}: no kernel calls {inside[0]}"
    return found


def listed(mutant: Mutant) -> Edit:
    """The place of a listed mutant; a shader that changed must not lose one silently."""
    text = SHADERS[mutant.file]
    anchor = text.find(mutant.anchor)
    start = text.find(mutant.old, anchor)
    if anchor < 0 or start < 0:
        raise SystemExit(f"{mutant}: not found any more")
    line = text.count("\n", 0, start) + 1
    return Edit(mutant.file, start, start + len(mutant.old), mutant.new, line)


def rounds(found: list[Edit]) -> list[list[Edit]]:
    """Edits that no kernel sees two of, together."""
    groups: list[list[Edit]] = []
    for edit in sorted(found, key=lambda e: -len(e.kernels)):
        for group in groups:
            if all(edit.kernels.isdisjoint(other.kernels) for other in group):
                group.append(edit)
                break
        else:
            groups.append([edit])
    return groups


def apply(group: list[Edit], tree: Path) -> None:
    """Writes the shaders of `tree`: with the edits of a round, and without any other."""
    for file, text in SHADERS.items():
        for edit in sorted(group, key=lambda e: -e.start):
            if edit.file == file:
                text = text[: edit.start] + edit.new + text[edit.end :]
        if (tree / "shaders" / file).read_text() != text:
            (tree / "shaders" / file).write_text(text)


def build(tree: Path, work: Path) -> bool:
    """Makes work/site/moeflux, the package of `tree` over a host device with checks."""
    configure = ["cmake", "-S", str(tree), "-B", str(work / "build"), "-DMOEFLUX_HOST_CHECKS=ON"]
    configure += ["-DMOEFLUX_PYTHON=ON", "-DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    make = ["cmake", "--build", str(work / "build"), "--target", "_core"]
    for command in (configure, make):
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(result.stdout[-3000:], result.stderr[-3000:])
            return False
    package = work / "site" / "moeflux"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(tree / "python" / "moeflux", package)
    for library in (work / "build").glob("_core*.so"):
        shutil.copy(library, package)
    return True


def noticed(kernels: set[str], tree: Path, work: Path, seed: int) -> set[str]:
    """Kernels of which a test failed; all that were to be tried, where the process died."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    command += ["-p", "no:faulthandler", "--capture=sys"]  # the host device tells of a fault
    command += ["tests/kernels", *(f"--kernel={kernel}" for kernel in sorted(kernels))]
    environment = os.environ | {"PYTHONPATH": str(work / "site"), "MOEFLUX_HOST_SEED": str(seed)}
    result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    names = set(re.findall(r"^(?:FAILED|ERROR) .*\[\w+-(\w+)[-\]]", result.stdout, re.M))
    fault = re.search(r"kernel (\w+): memory fault", result.stderr)
    if fault:
        names.add(fault[1])
    elif result.returncode not in (0, 1):
        raise SystemExit(f"pytest failed: {result.stdout[-2000:]}{result.stderr[-2000:]}")
    return names


def check_sound(groups: list[list[Edit]], tree: Path, work: Path) -> None:
    """Ends the program where a test fails that no edit broke: it would notice anything."""
    kernels = {kernel for group in groups for edit in group for kernel in edit.kernels}
    apply([], tree)
    if not build(tree, work):
        raise SystemExit("the shaders do not compile as they are")
    for seed in SEEDS:
        if names := noticed(kernels, tree, work, seed):
            raise SystemExit(f"fails as it is, seed {seed}: {', '.join(sorted(names))}")


def run(group: list[Edit], tree: Path, work: Path) -> list[Edit]:
    """Returns the edits of a round that went unnoticed."""
    apply(group, tree)
    if not build(tree, work):
        raise SystemExit("a mutant does not compile")
    left = list(group)
    for seed in SEEDS:
        todo = {kernel for edit in left for kernel in edit.kernels}
        while todo:  # a fault ends the process: the others are tried again
            names = noticed(todo, tree, work, seed)
            left = [edit for edit in left if edit.kernels.isdisjoint(names)]
            before, todo = todo, {k for e in left for k in e.kernels} if names else set()
            if todo == before:
                break
        if not left:
            break
    for edit in group:
        print("unnoticed" if edit in left else "noticed  ", edit, flush=True)
    return left


def copy_checkout(tree: Path) -> None:
    """Makes `tree` hold the files of the checkout and no others; those that are the same stay."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    names = {name for name in filter(None, listed) if (ROOT / name).is_file()}
    for path in list(tree.rglob("*")):
        if path.is_file() and path.relative_to(tree).as_posix() not in names:
            path.unlink()
    for name in names:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            shutil.copyfile(ROOT / name, target)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=Path("/tmp/moeflux-mutants"))
    parser.add_argument("--only", default="", help="edits whose line of the report has this text")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N")
    options = parser.parse_args()
    index, count = options.shard
    tree = options.work / "tree"
    copy_checkout(tree)
    found = [edit for edit in edits() if options.only in str(edit)]
    groups = rounds(found)[index - 1 :: count]
    found = [edit for group in groups for edit in group]
    print(f"{len(found)} edits in {len(groups)} builds", flush=True)
    check_sound(groups, tree, options.work)
    left = [edit for group in groups for edit in run(group, tree, options.work)]
    print(f"{len(left)} of {len(found)} unnoticed")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
