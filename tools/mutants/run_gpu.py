"""Breaks the GPU path of a model one way at a time; the C++ test that each names must notice.

    python3 tools/mutants/run_gpu.py [--jobs N] [--out DIR] [--shard I/N] [--only TEXT]
                                     [--work DIR] [--doctest DIR]

Edits of csrc/ops/gpu, of the engine's pipeline and sessions, and, since every dispatch of a command
buffer is ordered behind those before it, edits that take this order away for one kernel: what it
writes holds nobody back (gpu_mutants.py has the list, and what cannot be seen and why).

The tests are built once, from the checkout, which stays as it is. A mutant is one source file
compiled again and linked in front of the libraries that hold the original; then the one test runs,
up to TRIES times, since what is broken may need bad luck to show. Needs g++, cmake, make, Python's
standard library and doctest (Debian: doctest-dev; else --doctest names the folder that holds
doctest/doctest.h). Some minutes on two cores, mostly the build. Ends with 1 where a mutant went
unnoticed. --out gets gpu.json and gpu.md (of a shard: gpu-I-of-N).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu_mutants import MUTANTS, UNSEEN
from metal_mutants import Mutant
from shards import shard

ROOT = Path(__file__).resolve().parents[2]
TARGET = "moeflux_tests"
TIMEOUT_S = 120  # a hang is noticed, too
TRIES = 3


def must(*command: str | Path, cwd: Path = ROOT) -> None:
    """Runs a command; its words end the program where it fails."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))}:\n{result.stdout}{result.stderr}")


def build(work: Path, jobs: int, doctest: Path | None) -> None:
    """Makes work/build, the C++ tests as they are."""
    options = ["-DMOEFLUX_TESTS=ON", "-DMOEFLUX_HOST_CHECKS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    options += ["-DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF"]
    if doctest is not None:
        options.append(f"-DDOCTEST_INCLUDE_DIR={doctest.resolve()}")
    must("cmake", "-S", ROOT, "-B", work / "build", "-G", "Unix Makefiles", *options)
    must("cmake", "--build", work / "build", f"-j{jobs}", "--target", TARGET)


def run_test(binary: Path, name: str) -> str:
    """How the test cases whose names contain `name` fail; empty: they pass."""
    pattern = "*" + name.replace(",", "\\,") + "*"
    try:
        result = subprocess.run(
            [binary, f"--test-case={pattern}"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "timed out"
    if result.returncode < 0:
        return f"ended by signal {-result.returncode}"
    if "test cases: 0 " in result.stdout.replace("  ", " "):
        raise SystemExit(f"no test is called {name}")
    errors = [line for line in result.stdout.splitlines() if "ERROR" in line]
    return (errors or ["failed"])[0].rpartition("ERROR: ")[2] if result.returncode else ""


class Builder:
    """Makes a mutant's binary out of what the first build left."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.folder = work / "build/tests/cpp"
        entries = json.loads((work / "build/compile_commands.json").read_text())
        self.commands = {entry["file"]: entry for entry in entries}
        link = self.folder / f"CMakeFiles/{TARGET}.dir/link.txt"
        self.link = shlex.split(link.read_text())

    def make(self, mutant: Mutant, into: Path) -> Path:
        """Compiles the edited file and links it. RuntimeError: there is no such mutant."""
        original = ROOT / mutant.file
        text = original.read_text()
        if text.count(mutant.old) != 1:
            raise RuntimeError(f"{mutant.old!r} stands {text.count(mutant.old)} times")
        into.mkdir(parents=True, exist_ok=True)
        source, made, binary = into / original.name, into / "mutant.o", into / TARGET
        source.write_text(text.replace(mutant.old, mutant.new))
        entry = self.commands[str(original)]
        compile_ = shlex.split(entry["command"])
        compile_[compile_.index("-o") + 1] = str(made)
        compile_[compile_.index(str(original))] = str(source)
        self._run([*compile_, f"-iquote{original.parent}"], Path(entry["directory"]))
        link = list(self.link)
        at = link.index("-o") + 1
        link[at : at + 1] = [str(binary), str(made)]  # before the libraries
        self._run(link, self.folder)
        return binary

    @staticmethod
    def _run(command: list[str], cwd: Path) -> None:
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"is no program: {result.stderr[-2000:]}")


def judge(builder: Builder, number: int, mutant: Mutant) -> dict[str, object]:
    """What became of a mutant: the test's words, after how many tries and seconds."""
    into = builder.work / f"mutants/{number}"
    begin, words, tries = time.monotonic(), "", 0
    try:
        binary = builder.make(mutant, into)
        while not words and tries < TRIES:
            tries += 1
            words = run_test(binary, mutant.test)
        binary.unlink()
        verdict = "noticed" if words else "unnoticed"
    except RuntimeError as error:
        verdict, words = "broken", str(error)
    found = {"number": number, "file": mutant.file, "old": mutant.old, "new": mutant.new}
    found |= {"test": mutant.test, "verdict": verdict, "words": words, "tries": tries}
    found["seconds"] = round(time.monotonic() - begin, 1)
    edit = f"{mutant.old!r} -> {mutant.new!r}"
    print(f"{number:3} {verdict}: {mutant.file}: {edit}: {words}", flush=True)
    return found


def markdown(results: list[dict[str, object]]) -> str:
    """The results as a table."""
    noticed = sum(found["verdict"] == "noticed" for found in results)
    lines = [f"{noticed} of {len(results)} noticed.", ""]
    lines += ["| | edit | test | verdict | tries | s | words |", "|---|---|---|---|---|---|---|"]

    def cell(text: object) -> str:
        return " ".join(str(text).split()).replace("|", "\\|")

    for r in results:
        edit = f"{r['file']}: `{cell(r['old'])}` -> `{cell(r['new'])}`"
        cells = (r["number"], edit, r["test"], r["verdict"], r["tries"], r["seconds"], r["words"])
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    lines += ["", "Not tried, for no test could see it:", ""]
    lines += [f"- {what}: {why}" for what, why in UNSEEN]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build/mutants-gpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--doctest", type=Path, help="folder that holds doctest/doctest.h")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N")
    parser.add_argument("--only", default="", help="mutants whose file, text or test has this")
    options = parser.parse_args()
    work, (index, count) = options.work.resolve(), options.shard
    chosen = [
        (number, mutant)
        for number, mutant in enumerate(MUTANTS, start=1)
        if number % count == index % count
        and options.only in mutant.file + mutant.old + mutant.new + mutant.test
    ]
    build(work, options.jobs, options.doctest)
    builder = Builder(work)
    with ThreadPoolExecutor(options.jobs) as pool:
        names = sorted({mutant.test for _, mutant in chosen})
        as_is = pool.map(lambda name: run_test(builder.folder / TARGET, name), names)
        for name, words in zip(names, as_is, strict=True):
            if words:
                raise SystemExit(f"fails as it is: {name}: {words}")
        results = list(pool.map(lambda one: judge(builder, *one), chosen))
    if options.out is not None:
        stem = "gpu" if count == 1 else f"gpu-{index}-of-{count}"
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{stem}.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / f"{stem}.md").write_text(markdown(results))
    missed = sum(found["verdict"] != "noticed" for found in results)
    print(f"{missed} of {len(results)} unnoticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
