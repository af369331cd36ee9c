"""How fast weights go through the expert kernels, beside the rate at which memory can be read.

    python benchmarks/kernels.py [--out benchmarks/results/kernels.json]

One token, the experts of a layer, 4 bits in groups of 64, at float32: from memory (a gigabyte is
walked through) and from the cache, by instruction set and threads. The best of three rounds counts:
neighbours on the machine only ever slow one down.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from demo import machine

from moeflux import FormatError, _core
from moeflux.device import default_threads
from moeflux.planning import probe

KINDS = ("avx512", "avx2", "neon", "portable")  # those that this machine has are measured
SHAPES = {"qwen3-30b-a3b": (2048, 768), "qwen3-next-80b-a3b": (2048, 512), "wide": (4096, 4096)}
ROUNDS, SECONDS, TOP_K = 3, 0.3, 8
FROM_MEMORY, FROM_CACHE = 1 << 30, 1  # bytes; at least the experts of one token


def is_here(simd: str) -> bool:
    """Whether this machine has the instructions."""
    try:
        experts((64, 64), 1, simd, 1, 1, 0.001)
    except FormatError:
        return False
    return True


def experts(
    shape: tuple[int, int], top_k: int, simd: str, threads: int, nbytes: int, seconds: float
) -> dict[str, Any]:
    """What the core measures of 4-bit experts of this (d_model, d_ff)."""
    return _core.probe_experts(
        d_model=shape[0], d_ff=shape[1], format="affine4", group=64, dtype="BF16", top_k=top_k,
        nbytes=nbytes, seconds=seconds, compute=_core.Compute(n_threads=threads, simd=simd),
    )  # fmt: skip


def rate(shape: str, simd: str, threads: int, nbytes: int) -> float:
    """GB/s of packed weights."""
    done = experts(SHAPES[shape], TOP_K, simd, threads, nbytes, SECONDS)
    return float(done["nbytes"] / done["seconds"] / 1e9)


def main() -> None:
    """Prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    memory, rows = {}, []
    for threads in range(1, default_threads() + 1):
        memory[threads] = max(probe.memory(threads) for _ in range(ROUNDS)) / 1e9
        print(f"{threads} threads: memory {memory[threads]:.1f} GB/s")
        for shape in SHAPES:
            for simd in filter(is_here, KINDS):
                row = {"shape": shape, "simd": simd, "threads": threads}
                for name, nbytes in (("memory", FROM_MEMORY), ("cache", FROM_CACHE)):
                    row[name] = max(rate(shape, simd, threads, nbytes) for _ in range(ROUNDS))
                share = row["memory"] / memory[threads]
                print(f"  {shape:20} {simd:9} from memory {row['memory']:5.1f} ({share:.0%}), "
                      f"from the cache {row['cache']:5.1f} GB/s")  # fmt: skip
                rows.append(row)
    if options.out:
        result = {"machine": machine(), "memory_gb_per_second": memory, "experts": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
