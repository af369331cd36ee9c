"""`python -m agx table|check|write` with tools/ on PYTHONPATH. See tools/README.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from msl.library import read_library
from msl.source import shader_files

from .budgets import BUDGETS, Budget, Measured, measure, problems, read, write
from .compile import AgxError, find_compiler
from .loops import Turn

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="agx", description="shaders/ on Apple's G13, compiled")
    parser.add_argument("--shaders", type=Path, default=ROOT / "shaders", help="the folder")
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("table", help="what each kernel takes")
    tables.add_argument("kernels", nargs="*", metavar="KERNEL[=WEIGHTS]",
                        help="all; WEIGHTS: of a turn of its inner loop")  # fmt: skip
    tables.add_argument("--loops", action="store_true", help="every loop, not the inner one alone")
    commands.add_parser("check", help="exit status 1 where a kernel takes more than its budget")
    commands.add_parser("write", help="makes budgets of what the kernels take now")
    options = parser.parse_args()
    rows = read(BUDGETS)
    try:
        compiler = find_compiler()
        if compiler is None:
            print("skipped: no asahi_clc; tools/agx/build.sh builds it")
            return 0
        found = measure(read_library(shader_files(options.shaders)), compiler)
    except AgxError as error:
        print(error, file=sys.stderr)
        return 1
    if options.command == "table":
        return _table(found, rows, options)
    if options.command == "write":
        write(BUDGETS, found, rows)
        rows = read(BUDGETS)
    wrong = problems(found, rows)
    print("\n".join(wrong or [f"{len(found)} programs are within their budgets"]))
    return 1 if wrong else 0


def _table(found: dict[str, Measured], rows: dict[str, Budget], options: argparse.Namespace) -> int:
    wanted = dict(k.partition("=")[::2] for k in options.kernels)
    head = f"{'kernel':36} {'inst':>5} {'regs':>5} {'threads':>7} {'spills':>6}   "
    print(f"{head}of its inner loop, a turn:")
    columns = f"{'inst':>5} {'shared':>6} {'other':>6} {'fma':>4} {'loads':>9}"
    print(f"{' ' * len(head)}{columns}   a weight: inst, shared")
    for name, m in found.items():
        kernel = name.split("[")[0]
        if wanted and kernel not in wanted:
            continue
        head = f"{name:36} {m.instructions:5} {m.registers:5} {m.threads:7} {m.spilled:6}   "
        weights = int(wanted.get(kernel) or (rows[name].weights if name in rows else 0))
        for turn in m.loops if options.loops else filter(None, [m.turn]):
            print(head + _turn(turn, weights if turn == m.turn else 0))
            head = " " * len(head)
        if head.strip():
            print(head.rstrip())
    return 0


def _turn(turn: Turn, weights: int) -> str:
    loads = f"{turn.device_loads} + {turn.threadgroup_loads}"
    text = f"{turn.instructions:5} {turn.shared:6} {turn.other:6} {turn.multiply_adds:4} {loads:>9}"
    if weights:
        text += f"   {turn.instructions / weights:.2f}, {turn.shared / weights:.2f}"
    return text


if __name__ == "__main__":
    sys.exit(main())
