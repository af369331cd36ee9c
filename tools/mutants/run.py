"""Breaks the code one way at a time; a test must notice each edit.

    python tools/mutants/run.py KIND [--only TEXT] [--shard I/N] [--jobs N] [--work DIR] [--out DIR]

KIND is that of a list beside this file, KIND.toml: core (the C++ core, over the host device), metal
(the Metal device and its stand-in), kernels (the shaders) or python (the package). The checkout
stays as it is. Ends with 1 where an edit went unnoticed. --out gets KIND.json and KIND.md (of a
shard: KIND-I-of-N).
"""

import argparse
import itertools
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from mutant import ROOT, Broken, Kind, Mutant, read_list
from package import Package

from cpp import Cpp
from kernels import Kernels

KINDS = {
    "core": lambda work, jobs: Cpp(
        work, "moeflux_tests", "tests/cpp", "-DMOEFLUX_HOST_CHECKS=ON", "-DCMAKE_BUILD_TYPE=Debug"
    ),
    "metal": lambda work, jobs: Cpp(
        work, "moeflux_metal_tests", "tests/cpp/metal", "-DMOEFLUX_METAL=STANDIN"
    ),
    "kernels": lambda work, jobs: Kernels(work),
    "python": Package,
}


def shard(text: str) -> tuple[int, int]:
    """I and N of I/N."""
    index, _, count = text.partition("/")
    if not 1 <= int(index) <= int(count):
        raise argparse.ArgumentTypeError(f"expected I/N with I of 1..N, found {text}")
    return int(index), int(count)


def judge(kind: Kind, group: list[Mutant]) -> list[dict[str, object]]:
    """What became of the mutants of a group: the tests' words, after how many tries and seconds."""
    begin, broken = time.monotonic(), False
    try:
        verdicts = kind.judge(group)
    except Broken as error:
        verdicts, broken = [(str(error), 0)] * len(group), True
    seconds = round((time.monotonic() - begin) / len(group), 1)
    results = []
    for mutant, (words, tries) in zip(group, verdicts, strict=True):
        verdict = "broken" if broken else "noticed" if words else "unnoticed"
        results.append(
            asdict(mutant)
            | {"verdict": verdict, "words": words, "tries": tries, "seconds": seconds}
        )
        edit = f"{mutant.file}: {mutant.old!r} -> {mutant.new!r}"
        print(f"{mutant.number:3} {verdict}: {edit}: {words}", flush=True)
    return results


def markdown(results: list[dict[str, object]], unseen: dict[str, str]) -> str:
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
    if unseen:
        lines += ["", "Not tried, for no test could see it:", ""]
        lines += [f"- {what}: {why}" for what, why in unseen.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--only", default="", help="mutants whose file, text or test has this")
    parser.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="of kind python")
    parser.add_argument("--work", type=Path, help="default: build/mutants/KIND")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work = (options.work or ROOT / "build/mutants" / options.kind).resolve()
    work.mkdir(parents=True, exist_ok=True)
    kind: Kind = KINDS[options.kind](work, options.jobs)
    listed, unseen = read_list(Path(__file__).with_name(f"{options.kind}.toml"))
    mutants = [
        replace(mutant, number=number)
        for number, mutant in enumerate(kind.expand(listed), start=1)
        if options.only in mutant.file + mutant.old + mutant.new + mutant.test
    ]
    index, count = options.shard
    groups = kind.groups(mutants)[index - 1 :: count]
    try:
        kind.prepare([mutant for group in groups for mutant in group])
    except Broken as error:
        raise SystemExit(f"fails as it is: {error}") from None
    with ThreadPoolExecutor(kind.jobs) as pool:
        judged = pool.map(lambda group: judge(kind, group), groups)
        results = sorted(itertools.chain(*judged), key=lambda found: found["number"])
    if options.out is not None:
        stem = options.kind if count == 1 else f"{options.kind}-{index}-of-{count}"
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{stem}.json").write_text(json.dumps(results, indent=2) + "\n")
        (options.out / f"{stem}.md").write_text(markdown(results, unseen))
    missed = sum(found["verdict"] != "noticed" for found in results)
    print(f"{missed} of {len(results)} unnoticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
