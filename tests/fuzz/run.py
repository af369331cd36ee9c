"""Coverage-guided fuzzing of what reads foreign bytes, by atheris (libFuzzer for Python).

    PYTHONPATH=tests python -m fuzz.run [TARGET ...] [--seconds 60] [--jobs 2] [--keep]

Begins with the kept corpus. A finding is printed, and its bytes are left in --artifacts; mend it,
and add them to the target's findings, which `make test` replays with the corpus. --keep writes the
inputs that cover most into the corpus. Ends with 1 where a target has a finding.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import corpus

MOST_LENGTH = 16_384  # bytes of an input
MOST_KEPT = 60_000  # bytes of a target's corpus
SLOW_SECONDS = 20  # for one input


def child(name: str, command: list[str]) -> None:
    """Fuzzes in this process, as a program and its arguments; does not return."""
    import atheris

    with atheris.instrument_imports(include=["moeflux", "fuzz.targets"]):
        from fuzz.targets import TARGETS, attempt
    target = TARGETS[name]

    def one(data: bytes) -> None:
        attempt(target, data)

    atheris.Setup(command, one)
    atheris.Fuzz()


def libfuzzer(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that fuzzes one target. A merge starts the program again, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fuzz"
        command = shlex.join([sys.executable, "-m", "fuzz.run", "--child", name, str(program)])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o700)
        return subprocess.run([program, *arguments], env=os.environ | {"TMPDIR": folder},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace")  # fmt: skip


def fuzz(name: str, options: argparse.Namespace) -> bool:
    """Whether a target has no finding."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, least = Path(folder) / "inputs", Path(folder) / "least"
        inputs.mkdir()
        least.mkdir()
        for index, data in enumerate(corpus.load(name)):
            (inputs / f"kept{index}").write_bytes(data)
        begun = len(list(inputs.iterdir()))
        options.artifacts.mkdir(parents=True, exist_ok=True)
        done = libfuzzer(
            name, str(inputs), f"-max_total_time={options.seconds}", f"-max_len={MOST_LENGTH}",
            *([f"-runs={options.runs}", "-seed=1"] if options.runs else []),
            f"-timeout={SLOW_SECONDS}", "-rss_limit_mb=2048", "-print_final_stats=1",
            f"-artifact_prefix={options.artifacts / name}-",
        )  # fmt: skip
        runs = [line.split()[-1] for line in done.stdout.splitlines() if "executed_units" in line]
        found = len(list(inputs.iterdir())) - begun
        print(f"{name}: {begun} kept, {runs[0] if runs else 'no'} runs, {found} new", flush=True)
        if done.returncode:
            print(done.stdout[-4000:], flush=True)
            return False
        if options.keep:
            merged = libfuzzer(name, "-merge=1", f"-max_len={MOST_LENGTH}", str(least), str(inputs))
            if merged.returncode:
                print(merged.stdout[-4000:], flush=True)
                return False
            corpus.store(name, (path.read_bytes() for path in least.iterdir()), MOST_KEPT)
    return True


def main() -> None:
    """Fuzzes some targets, or all."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--runs", type=int, help="of each, always the same, within --seconds")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--artifacts", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    from fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"expected targets of {', '.join(TARGETS)}, found {', '.join(unknown)}")
    with ThreadPoolExecutor(options.jobs) as pool:
        clean = list(pool.map(lambda name: fuzz(name, options), names))
    raise SystemExit(not all(clean))


if __name__ == "__main__":
    main()
