"""How fast weights of GGUF's formats go through the kernels, beside MLX's affine ones.

    python benchmarks/formats.py [--simd avx2] [--out benchmarks/results/formats.json]

One token, the experts of a layer, one thread, at float32 and at int8: bytes of all planes a second,
from memory (a gigabyte is walked through) and from the cache. Formats take turns, and the best of
many rounds counts: neighbours on the machine only ever slow one down.
"""

import argparse
import json
from pathlib import Path

from demo import machine

from moeflux import _core

# What each is compared with: the affine codes of as many bits, or of the next more.
FORMATS = {
    "affine4": "affine4", "affine8": "affine8",
    "q4_k": "affine4", "q6_k": "affine8", "mxfp4": "affine4", "q8_0": "affine8",
    "q4_0": "affine4", "q5_k": "affine8", "iq4_xs": "affine4",
}  # fmt: skip
GROUPS = {"affine4": 64, "affine8": 64, "q6_k": 16}  # else 32
D_MODEL, D_FF, TOP_K = 2048, 768, 8  # Qwen3-30B-A3B
PRECISIONS = ("float32", "int8")
PLACES = {"memory": 1 << 30, "cache": 1}  # bytes; at least the experts of one token
ROUNDS, SECONDS = 12, 0.1


def rate(name: str, simd: str, precision: str, nbytes: int) -> float:
    """GB/s of packed weights."""
    done = _core.probe_experts(
        d_model=D_MODEL, d_ff=D_FF, format=name, group=GROUPS.get(name, 32),
        dtype="BF16" if name.startswith("affine") else "F16", top_k=TOP_K, nbytes=nbytes,
        seconds=SECONDS, compute=_core.Compute(n_threads=1, simd=simd, precision=precision),
    )  # fmt: skip
    return float(done["nbytes"] / done["seconds"] / 1e9)


def main() -> None:
    """Prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simd", default="", help="a family of instructions; else the best here")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for precision in PRECISIONS:
        for place, nbytes in PLACES.items():
            best = dict.fromkeys(FORMATS, 0.0)
            for _ in range(options.rounds):
                for name in FORMATS:
                    best[name] = max(best[name], rate(name, options.simd, precision, nbytes))
            for name, other in FORMATS.items():
                row = {"format": name, "precision": precision, "from": place,
                       "gb_per_second": round(best[name], 2), "beside": other,
                       "share": round(best[name] / best[other], 2)}  # fmt: skip
                rows.append(row)
                print(f"{precision:8} {place:6} {name:8} {best[name]:5.1f} GB/s, "
                      f"{row['share']:.2f} of {other}")  # fmt: skip
    if options.out:
        result = {"machine": machine(), "simd": options.simd or "best", "rates": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
