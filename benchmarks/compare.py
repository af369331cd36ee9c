"""moeflux beside what one would use instead, on the very same weights, in one run.

    python benchmarks/compare.py --folder DIR --llama PYTHON [--llama-avx2 PYTHON] [--mlx PYTHON]
        [--on-demand] [--out benchmarks/results/compare.json] [--only resident,avx2,mlx,limited]

DIR is what `moeflux synth --shape qwen3-30b-a3b --layers N --skew S --gguf` wrote. Engines run in
processes and environments of their own (peers.py) and take turns; the same token ids; 512 tokens of
prompt, then 64 to warm up, then 256 on the clock; medians over rounds. In memory llama.cpp runs at
its best setting (weights repacked, no mmap, huge pages for every process). Under a limit each
engine is alone in a child memory cgroup and the files' pages are dropped from the cache before each
start; a phase ends after `LIMIT_SECONDS`, with as many tokens as were done; --on-demand adds rows
of moeflux without guesses. A part that is run replaces its own results in --out, and no others; a
file's results are of one model. Bounds are measured in the same run: M, the memory's rate, by
probe.memory; W, the disk's, by fio, the best of records, 1 MiB and 4 MiB at depths 1 to 16, before
and after the rounds. Linux, root.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eviction
import numpy as np
from demo import machine
from peer import PROMPT, TIMED, WARM_UP, huge_pages, running

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.planning import plan, probe
from moeflux.planning.line_chart import Line, svg, write_svg
from support import cgroup

ROUNDS = 3
CONTEXT = PROMPT + WARM_UP + TIMED + 64
THREADS = 2
LIMIT_SECONDS = 40.0  # of a phase under a memory limit
INTERPRETER = 160 << 20  # Python, numpy and tokenizer beside the model's budget
GGUF = "model-q4_0.gguf"
PRECISIONS = "bfloat16,float32,int8"
BEST = {"repack": True, "mmap": False}  # llama.cpp's, all in memory
MLX_PROMPT, MLX_LIMIT_SECONDS = 16, 40.0


def median(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each number."""
    return {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}


def fio(file: Path, size: int, depth: int) -> float:
    """Bytes/s of random direct reads of `file`, 1.5 seconds of them."""
    done = subprocess.run(
        ["fio", "--name=w", f"--filename={file}", "--rw=randread", "--direct=1",
         "--ioengine=libaio", f"--bs={size}", f"--iodepth={depth}", "--time_based",
         "--runtime=1.5", "--readonly", "--output-format=json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])


def disk_rates(file: Path, record: int) -> dict[tuple[int, int], float]:
    """Rates of fio by block size and depth; W is the best of them."""
    sizes = (record // 4096 * 4096, 1 << 20, 4 << 20)
    return {(size, depth): fio(file, size, depth) for size in sizes for depth in (1, 4, 8, 16)}


class Bench:
    """What all parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        self.llama = {"model": str(self.folder / GGUF), "context": CONTEXT, "threads": THREADS}
        self.ours = {"model": str(self.folder), "context": CONTEXT, "threads": THREADS}
        checkpoint = open_checkpoint(self.folder)
        self.sizes = plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, THREADS, "bfloat16")
        numbers = np.random.Generator(np.random.PCG64(7))
        self.ids = [int(t) for t in numbers.integers(0, options.vocab, CONTEXT)]

    @property
    def touched(self) -> int:
        """Bytes of weights that a token goes through."""
        return self.sizes.dense_token_bytes + self.sizes.expert_token_bytes

    def whole(self) -> str:
        """A budget that holds everything."""
        return str(self.sizes.fixed_bytes + (self.sizes.n_experts + 64) * self.sizes.slot_bytes)


def in_turns(
    bench: Bench, python: str, peer: dict[str, Any], precision: str, simd: str
) -> dict[str, Any]:
    """A row: llama.cpp and one precision take turns, all in memory; `simd` empty: the best."""
    ours = bench.ours | {"memory": bench.whole(), "precision": precision}
    env = {"MOEFLUX_SIMD": simd} if simd else {}
    with huge_pages(), running(python, "llama.cpp", bench.llama | peer) as a, running(
        sys.executable, "moeflux", ours, env=env
    ) as b:  # fmt: skip
        b.round(bench.ids)  # reads every expert
        theirs, mine, rates = [], [], []
        for _ in range(bench.options.rounds):
            theirs.append(a.round(bench.ids))
            mine.append(b.round(bench.ids))
            rates.append(probe.memory(THREADS) / 1e9)
        row: dict[str, Any] = {
            "precision": precision, "simd": simd or "best",
            "llama.cpp": median(theirs), "moeflux": median(mine),
            "llama.cpp_setting": peer, "llama.cpp_system": a.ask(stats=True)["stats"]["system"],
            "memory_gb_per_second": max(rates),
        }  # fmt: skip
    row["decode_ratio"] = row["moeflux"]["decode"] / row["llama.cpp"]["decode"]
    row["prefill_ratio"] = row["moeflux"]["prefill"] / row["llama.cpp"]["prefill"]
    gb = row["moeflux"]["decode"] * bench.touched / 1e9
    row["share_of_memory_rate"] = gb / row["memory_gb_per_second"]
    print(f"resident {precision} ({row['simd']}): decode {row['moeflux']['decode']:.1f} against "
          f"{row['llama.cpp']['decode']:.1f} tokens/s (x{row['decode_ratio']:.2f}), prefill "
          f"{row['moeflux']['prefill']:.0f} against {row['llama.cpp']['prefill']:.0f} "
          f"(x{row['prefill_ratio']:.2f}); {gb:.1f} of {row['memory_gb_per_second']:.1f} GB/s",
          flush=True)  # fmt: skip
    return row


def resident(bench: Bench) -> dict[str, Any]:
    """All in memory: llama.cpp and each precision take turns."""
    return {"rows": [in_turns(bench, bench.options.llama, BEST, precision, "")
                     for precision in bench.options.precisions.split(",")]}  # fmt: skip


def avx2(bench: Bench) -> dict[str, Any]:
    """The same, both at AVX2; llama.cpp at the better of its settings, tried first."""
    python, tried = bench.options.llama_avx2, []
    for setting in (BEST, BEST | {"repack": False}):
        with huge_pages(), running(python, "llama.cpp", bench.llama | setting) as peer:
            tried.append((peer.round(bench.ids[: PROMPT + WARM_UP + 64]), setting))
            system = peer.ask(stats=True)["stats"]["system"]
        if "AVX512" in system or "AVX2 = 1" not in system:
            raise SystemExit(f"--llama-avx2: expected a build for AVX2 and no more, found {system}")
        print(f"llama.cpp at AVX2, {setting}: {tried[-1][0]}", flush=True)
    best = max(tried, key=lambda found: found[0]["decode"])[1]
    return {
        "rows": [
            in_turns(bench, python, best, precision, "avx2")
            for precision in bench.options.precisions.split(",")
        ],
        "llama.cpp_settings": [{"setting": setting} | found for found, setting in tried],
    }


def mlx(bench: Bench) -> dict[str, Any]:
    """mlx-lm on the CPU, alone, all in memory: tokens for MLX_LIMIT_SECONDS, a short prompt."""
    with running(bench.options.mlx, "mlx-lm", bench.ours) as peer:
        peer.ask(decode=bench.ids[:1])  # reads the file
        decode = peer.ask(decode=bench.ids[:TIMED], limit=MLX_LIMIT_SECONDS)
        peer.ask(reset=True)
        seconds = peer.ask(prefill=bench.ids[:MLX_PROMPT])["seconds"]
    found = {
        "prompt": MLX_PROMPT, "prefill": MLX_PROMPT / seconds,
        "decode": decode["tokens"] / decode["seconds"], "decode_tokens": decode["tokens"],
    }  # fmt: skip
    print(f"mlx-lm on the CPU: {found}", flush=True)
    return found


def under(bench: Bench, limit: int, read_ahead: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """A round of moeflux alone in a cgroup of `limit` bytes, and its counters."""
    cgroup.drop_page_cache(bench.folder)
    ours = bench.ours | {"memory": str(limit - INTERPRETER), "precision": "bfloat16",
                         "read_ahead": read_ahead}  # fmt: skip
    with cgroup.group(limit) as prefix, running(
        sys.executable, "moeflux", ours, prefix=prefix
    ) as peer:  # fmt: skip
        return peer.round(bench.ids, LIMIT_SECONDS), peer.ask(stats=True)["stats"]


def llama_under(bench: Bench, limit: int) -> dict[str, Any]:
    """A round of llama.cpp alone in a cgroup of `limit` bytes, or its error."""
    cgroup.drop_page_cache(bench.folder)
    options = bench.llama | {"repack": False, "mmap": True}
    try:
        with cgroup.group(limit) as prefix, running(
            bench.options.llama, "llama.cpp", options, prefix=prefix
        ) as peer:  # fmt: skip
            return peer.round(bench.ids, LIMIT_SECONDS)
    except RuntimeError as error:
        return {"error": str(error)}


def limited(bench: Bench) -> dict[str, Any]:
    """Half and a quarter of the model's bytes in memory, each engine alone in a cgroup."""
    total = bench.sizes.resident_bytes + bench.sizes.n_experts * bench.sizes.expert_bytes
    out: dict[str, Any] = {"rows": []}
    record = bench.sizes.expert_bytes
    file = next(bench.folder.glob("*.safetensors"))
    everything = bench.ours | {"memory": bench.whole(), "precision": "bfloat16"}
    with running(sys.executable, "moeflux", everything) as peer:
        peer.ask(prefill=bench.ids[:PROMPT])
        tokens = bench.ids[PROMPT : PROMPT + WARM_UP + TIMED]
        trace = np.array(peer.ask(experts=tokens)["experts"])
        compute = peer.round(bench.ids)
    for share in (0.5, 0.25):
        limit = int(total * share)
        found: dict[bool, list[tuple[dict[str, float], dict[str, Any]]]] = {True: [], False: []}
        before = disk_rates(file, record)
        for _ in range(bench.options.rounds):
            for read_ahead in (True, False) if bench.options.on_demand else (True,):
                found[read_ahead].append(under(bench, limit, read_ahead))
        after = disk_rates(file, record)  # a disk that is shared differs from minute to minute
        w = max(*before.values(), *after.values())
        theirs = llama_under(bench, limit)
        stats = found[True][-1][1]
        asked = eviction.requests(trace, bench.sizes.experts_per_layer)
        misses = float(np.mean(eviction.lru(asked, stats["slots"])[WARM_UP:]))
        bound = max(1 / compute["decode"], misses * record / w)
        sweep = bench.sizes.n_experts * record / w
        prefill_bound = max(PROMPT / compute["prefill"], sweep)

        def of_bound(rounds, bound=bound, prefill_bound=prefill_bound) -> dict[str, Any]:
            middle = median([speeds for speeds, _ in rounds])
            return middle | {
                "rounds": [speeds["decode"] for speeds, _ in rounds],
                "decode_share_of_bound": middle["decode"] * bound,
                "prefill_share_of_bound": middle["prefill"] * prefill_bound / PROMPT,
            }  # fmt: skip

        row = {
            "share": share, "limit_bytes": limit, "slots": stats["slots"],
            "read_mode": stats["read_mode"], "lru_misses_per_token": misses,
            "disk_bytes_per_second": w,
            "compute": compute, "decode_bound": 1 / bound, "prefill_bound": PROMPT / prefill_bound,
            "moeflux": of_bound(found[True]) | {
                "guesses": stats["ahead_reads"], "guesses_used": stats["ahead_used"],
            },
            "llama.cpp": theirs,
        }  # fmt: skip
        if found[False]:
            row["moeflux, read_ahead=False"] = of_bound(found[False])
        for name in (name for name in row if name.startswith("moeflux")):
            mine = row[name]
            print(f"{share:.0%} of the model, {name}: decode {mine['decode']:.2f} tokens/s, bound "
                  f"{1 / bound:.2f} ({mine['decode_share_of_bound']:.0%}), "
                  f"prefill {mine['prefill']:.0f} "
                  f"({mine['prefill_share_of_bound']:.0%} of its bound)", flush=True)  # fmt: skip
        print(f"  llama.cpp {theirs}", flush=True)
        out["rows"].append(row)
    return out


def layouts(bench: Bench) -> dict[str, Any]:
    """A quarter in memory, in place and packed, in turns; and eight sequences beside one."""
    total = bench.sizes.resident_bytes + bench.sizes.n_experts * bench.sizes.expert_bytes
    memory, packed = str(total // 4), bench.options.packed
    if not packed.exists():
        subprocess.run([sys.executable, "-m", "moeflux.cli", "pack", str(bench.folder),
                        str(packed)], check=True, capture_output=True)  # fmt: skip
    rounds: dict[str, list[dict[str, float]]] = {"in place": [], "packed": []}
    for _ in range(bench.options.rounds):
        for name, folder in (("in place", bench.folder), ("packed", packed)):
            cgroup.drop_page_cache(folder)
            options = bench.ours | {"model": str(folder), "memory": memory,
                                    "precision": "bfloat16"}  # fmt: skip
            with running(sys.executable, "moeflux", options) as peer:
                rounds[name].append(peer.round(bench.ids))
    rows = {name: median(found) for name, found in rounds.items()}
    done = subprocess.run(
        [sys.executable, "-m", "moeflux.cli", "bench", str(packed), "--memory", f"{total // 4}B",
         "--sequences", "1,8", "--precision", "bfloat16", "--prompt", "64", "-n", "64", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    sequences = [run["decode"]["tokens_per_second"] for run in json.loads(done.stdout)["runs"]]
    in_place, in_records = rows["in place"]["decode"], rows["packed"]["decode"]
    out = {"rows": rows, "in_place_over_packed": in_place / in_records,
           "one_and_eight_sequences": sequences,
           "eight_over_one": sequences[1] / sequences[0]}  # fmt: skip
    print(f"in place {in_place:.2f}, packed {in_records:.2f} tokens/s; "
          f"one and eight sequences {sequences}", flush=True)  # fmt: skip
    return out


def draw(result: dict[str, Any], path: Path) -> None:
    """Decode over the share of the model in memory: both engines and the bound."""
    rows = sorted(result["limited"]["rows"], key=lambda row: row["share"])
    whole = result["resident"]["rows"][0]
    lines = [
        Line("moeflux", [*((r["share"], r["moeflux"]["decode"]) for r in rows),
                         (1.0, whole["moeflux"]["decode"])]),
        Line("llama.cpp", [*((r["share"], r["llama.cpp"].get("decode", 0.0)) for r in rows),
                           (1.0, whole["llama.cpp"]["decode"])]),
        Line("bound under a limit", [(r["share"], r["decode_bound"]) for r in rows], dashed=True),
    ]  # fmt: skip
    write_svg(path, svg("Decode, same weights, 2 cores", "share of the model in memory",
                        "tokens/s", lines))  # fmt: skip


PARTS = {"resident": resident, "avx2": avx2, "mlx": mlx, "limited": limited, "layouts": layouts}


def earlier(path: Path, model: dict[str, Any]) -> dict[str, Any]:
    """What a results file has already, which must be of the same model; nothing when it is new."""
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    for name, part in found.items():
        if part["model"] != model:
            raise SystemExit(f"{path}: expected results of {model}, found {name!r} of "
                             f"{part['model']}; name another file")  # fmt: skip
    return found


def main() -> None:
    """Runs the parts and writes JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--llama", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--llama-avx2", help="one whose llama.cpp was built for AVX2")
    parser.add_argument("--mlx", help="a Python that has mlx-lm")
    parser.add_argument("--packed", type=Path, help="DIR as `moeflux pack` made it, or is to")
    parser.add_argument("--on-demand", action="store_true",
                        help="limited: also with read_ahead=False")  # fmt: skip
    parser.add_argument("--precisions", default=PRECISIONS, help="all in memory")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}; else all that are possible")
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was set or started is put back
    options.folder = options.folder.resolve()
    options.packed = options.packed or options.folder.with_name(options.folder.name + "-packed")
    possible = [
        part for part in PARTS if {"avx2": options.llama_avx2, "mlx": options.mlx}.get(part, 1)
    ]
    wanted = options.only.split(",") if options.only else possible
    if not set(wanted) <= set(possible):
        parser.error(f"--only: expected some of {', '.join(possible)}, found {options.only}")
    model = json.loads((options.folder / "synth.json").read_text())
    result = earlier(options.out, model) if options.out else {}
    bench = Bench(options)
    for name in wanted:
        result[name] = PARTS[name](bench) | {"machine": machine(), "model": model}
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    main()
