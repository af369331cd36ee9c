"""How fast weights of every format go through the kernels, beside MLX's affine ones of 4 bits.

    python benchmarks/formats.py [--simd avx2] [--threads 1,2] [--out benchmarks/results/formats.md]

One token, the experts of a layer, at float32 and at int8: bytes of all planes a second, from memory
(more than caches hold is walked through). Formats take turns, and the best of the rounds counts:
neighbours on the machine only ever slow one down. Of formats in blocks, also what a reader's thread
takes to make planes of a megabyte.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from demo import machine

from moeflux import _core
from moeflux.formats import TABLE

BESIDE = "affine4"
D_MODEL, D_FF, TOP_K = 2048, 768, 8  # Qwen3-30B-A3B
PRECISIONS = ("float32", "int8")
NBYTES, SECONDS, ROUNDS = 400 << 20, 0.05, 12
MEGABYTE, TRANSCODINGS = 1_000_000, 200


def rate(name: str, simd: str, precision: str, threads: int) -> float:
    """GB/s of packed weights."""
    row = TABLE[name]
    group = 64 if 64 in row.groups else row.groups[0] if row.groups else 0
    dtype = name.upper() if not row.bits else "F16" if row.is_blocks else "BF16"
    done = _core.probe_experts(
        d_model=D_MODEL, d_ff=D_FF, format=name, group=group, dtype=dtype, top_k=TOP_K,
        nbytes=NBYTES, seconds=SECONDS,
        compute=_core.Compute(n_threads=threads, simd=simd, precision=precision),
    )  # fmt: skip
    return float(done["nbytes"] / done["seconds"] / 1e9)


def rates(
    names: list[str], simd: str, precision: str, threads: int, rounds: int
) -> dict[str, float]:
    """GB/s of each format, the best of the rounds."""
    best = dict.fromkeys(names, 0.0)
    for _ in range(rounds):
        for name in names:
            best[name] = max(best[name], rate(name, simd, precision, threads))
    return best


def transcoding(name: str) -> float:
    """Microseconds a megabyte of blocks."""
    _, dtype, elements, _ = _core.tensors(name, 256, TABLE[name].groups[0], "F16")[0]
    assert dtype == "U8"  # bytes of 256 columns
    blocks = np.random.default_rng(1).bytes(MEGABYTE // elements * elements)
    planes = np.empty(len(blocks), np.uint8)
    best = float("inf")
    for _ in range(TRANSCODINGS):
        begin = time.perf_counter()
        _core.transcode(name, blocks, planes)
        best = min(best, time.perf_counter() - begin)
    return best * 1e6 / (len(blocks) / MEGABYTE)


def report(simd: str, threads: list[int], rounds: int, names: list[str]) -> str:
    """The page of results."""
    on = machine()
    about = (f"`benchmarks/formats.py` on {on['cpu']}, {on['cores']} cores, commit {on['commit']}, "
             f"kernels: {simd or 'the best here'}. {rounds} rounds.")  # fmt: skip
    lines = ["# Formats beside affine codes of 4 bits", "", about, "",
             f"GB/s of planes from memory, and the share of {BESIDE}'s. The best of all rounds.",
             ""]  # fmt: skip
    cases = [(precision, n) for precision in PRECISIONS for n in threads]
    columns: dict[str, list[str]] = {name: [] for name in names}
    for precision, n in cases:
        best = rates(names, simd, precision, n, rounds)
        for name in names:
            columns[name].append(f"{best[name]:.1f} ({best[name] / best[BESIDE]:.2f})")
    for name in names:
        columns[name].append(f"{transcoding(name):.0f}" if TABLE[name].is_blocks else "")
    heads = [f"{precision}, {n} thread{'s' * (n > 1)}" for precision, n in cases]
    lines.append("| format | " + " | ".join([*heads, "into planes, us/MB"]) + " |")
    lines.append("|---" * (len(heads) + 2) + "|")
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in columns.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints a page, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simd", default="", help="a family of instructions; else the best here")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--formats", default=",".join(TABLE))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    page = report(options.simd, [int(n) for n in options.threads.split(",")], options.rounds,
                  list(dict.fromkeys([BESIDE, *options.formats.split(",")])))  # fmt: skip
    print(page, end="")
    if options.out:
        options.out.write_text(page)


if __name__ == "__main__":
    main()
