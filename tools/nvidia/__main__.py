"""`python -m nvidia compile|check|speed|pack` with tools/ on PYTHONPATH. See tools/README.md."""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from msl.library import read_library
from msl.model import Library
from msl.source import shader_files

from .driver import Device, NoGpuError
from .geometry import GeometryError
from .kernels import Kernels
from .nvrtc import NvrtcError
from .speed import Bench, Step, table
from .speed_cases import CASES, Case

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="nvidia", description="shaders/ on an NVIDIA GPU")
    parser.add_argument("--shaders", type=Path, default=ROOT / "shaders", help="the folder")
    commands = parser.add_subparsers(dest="command", required=True)
    compiles = commands.add_parser("compile", help="every kernel, without a GPU")
    compiles.add_argument("--arch", default="sm_90")
    checks = commands.add_parser("check", help="the kernels' oracles")
    checks.add_argument("kernels", nargs="*", help="all, where none is named")
    checks.add_argument("--drawn", type=int, default=4, help="drawn shapes of a kernel")
    checks.add_argument("--listed", type=int, help="listed shapes of a kernel: all")
    speeds = commands.add_parser("speed", help="GB/s and TFLOP/s")
    speeds.add_argument("cases", nargs="*", help="names or patterns; all, where none is given")
    speeds.add_argument("--cases", dest="files", type=Path, action="append", default=[],
                        help="a Python file with CASES of its own")  # fmt: skip
    speeds.add_argument("--json", type=Path, help="file for the results")
    packs = commands.add_parser("pack", help="a folder to run elsewhere: `python -m nvidia` in it")
    packs.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "pack":
        from .pack import pack

        pack(options.shaders, _commit(options.shaders), options.folder)
        return 0
    library = read_library(shader_files(options.shaders))
    steps = _steps(library, options) if options.command == "speed" else {}
    try:
        if options.command == "compile":
            return _compile(Kernels(library, None, options.arch))
        device = Device()
        print(f"{device.name}, {device.arch}, shaders of {_commit(options.shaders)}", flush=True)
        kernels = Kernels(library, device, device.arch)
        if options.command == "check":
            return _check(kernels, options)
        return _speed(kernels, steps, options)
    except NoGpuError as error:
        print(f"skipped: {error}")
        return 0
    except NvrtcError as error:
        print(error, file=sys.stderr)
        return 1


def _commit(shaders: Path) -> str:
    """What the pack says, or git of the shaders' checkout: with "-dirty" where that has changes."""
    packed = ROOT / "COMMIT"
    if packed.is_file():
        return packed.read_text(encoding="utf-8").strip()
    command = ["git", "-C", str(shaders), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def _compile(kernels: Kernels) -> int:
    begin = time.monotonic()
    kernels.compile(kernels.key(name, {}, 0) for name in kernels.by_name)
    print(f"{len(kernels.by_name)} kernels for {kernels.arch}: {time.monotonic() - begin:.1f} s")
    return 0


def _check(kernels: Kernels, options: argparse.Namespace) -> int:
    from .check import check, chosen

    begin = time.monotonic()
    largest: dict[str, tuple[int, float]] = {}
    bad = 0
    for case, problem, error in check(
        kernels, chosen(kernels, options.kernels, options.drawn, options.listed)
    ):
        n, most = largest.get(case.kernel, (0, 0.0))
        largest[case.kernel] = n + 1, max(most, error)
        if problem:
            bad += 1
            print(f"WRONG {case}: {problem}", flush=True)
    for name, (n, most) in largest.items():
        print(f"{name:32} {n:3} cases, largest error {most:.2f} of what is allowed")
    total = sum(n for n, _ in largest.values())
    print(f"{len(largest)} kernels, {total} cases, {bad} wrong: {time.monotonic() - begin:.1f} s")
    return 1 if bad or not total else 0


def _steps(library: Library, options: argparse.Namespace) -> dict[str, Step]:
    """The cases that are asked for, held to the kernels' annotations."""
    known: dict[str, Case | Step] = dict(CASES)
    for file in options.files:
        known |= runpy.run_path(str(file))["CASES"]
    wanted = options.cases or ["*"]
    chosen = {n: c for n, c in known.items() if any(fnmatchcase(n, w) for w in wanted)}
    if not chosen:
        raise SystemExit(f"expected a case of {', '.join(known)}, found {' '.join(wanted)}")
    kernels = {kernel.name: kernel for kernel in library.kernels}
    steps = {name: case if isinstance(case, Step) else case() for name, case in chosen.items()}
    for name, step in steps.items():
        for dispatch in step.dispatches:
            try:
                dispatch.geometry(kernels[dispatch.kernel])
            except (GeometryError, KeyError, ValueError) as error:
                raise SystemExit(f"case {name}: {type(error).__name__}: {error}") from None
    return steps


def _speed(kernels: Kernels, steps: dict[str, Step], options: argparse.Namespace) -> int:
    bench, results, bad = Bench(kernels), {}, False
    print(f"a dispatch that does nothing: {bench.gap:.2f} us, taken off below")
    print(f"{'case':34} {'us':>9} {'GB/s':>8} {'TFLOP/s':>8} {'regs':>5} {'spilled':>8}")
    for name, speed in table(bench, steps):
        if isinstance(speed, str):
            print(f"{name:34} FAILED {speed}", flush=True)
            bad = True
            continue
        results[name] = speed._asdict()
        rates = f"{speed.microseconds:9.2f} {speed.gigabytes:8.0f} {speed.teraflops:8.2f}"
        print(f"{name:34} {rates} {speed.registers:5} {speed.spilled:8}", flush=True)
    if options.json:
        record = {"gpu": kernels.device.name, "commit": _commit(options.shaders), "cases": results}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
