"""moeflux beside what one would use instead, on the very same weights, in one run.

    python benchmarks/compare.py --folder DIR --llama PYTHON [--llama-avx2 PYTHON] [--mlx PYTHON]
        [--out benchmarks/results/compare.json] [--only resident,limited]

DIR is what `moeflux synth --shape qwen3-30b-a3b --layers N --skew S --gguf` wrote. Engines run in
processes and environments of their own (peers.py) and take turns; the same token ids; 512 tokens of
prompt, then 64 to warm up, then 256 on the clock; medians over rounds. In memory llama.cpp runs at
its best setting (weights repacked, no mmap). Under a limit each engine is alone in a child memory
cgroup and the files' pages are dropped from the cache before each start; a phase ends after
`LIMIT_SECONDS`, with as many tokens as were done. Bounds are measured in the same run: M, the
memory's rate, by probe.memory; W, the disk's, by fio, the best of records, 1 MiB and 4 MiB at
depths 1 to 16. Linux, root.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from demo import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from moeflux import plan, probe
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from moeflux.line_chart import Line, svg, write_svg
from support import cgroup

PROMPT, WARM_UP, TIMED, ROUNDS = 512, 64, 256, 3
CONTEXT = PROMPT + WARM_UP + TIMED + 64
THREADS = 2
LIMIT_SECONDS = 40.0  # of a phase under a memory limit
INTERPRETER = 160 << 20  # Python, numpy and tokenizer beside the model's budget
GGUF = "model-q4_0.gguf"


class Peer:
    """One process of peers.py."""

    def __init__(
        self,
        python: str,
        engine: str,
        options: dict[str, Any],
        prefix: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        command = [*prefix, python, str(Path(__file__).with_name("peers.py")), engine,
                   json.dumps(options)]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | (env or {}),
        )  # fmt: skip
        self.load = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine ended with {self._process.wait()}")
        return dict(json.loads(line))

    def ask(self, **order: Any) -> dict[str, Any]:
        """Runs an order and returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def round(self, ids: Sequence[int], limit: float = 1e9) -> dict[str, float]:
        """Prompt, warm-up and timed tokens from an empty sequence."""
        self.ask(reset=True)
        prefill = self.ask(prefill=ids[:PROMPT])
        self.ask(decode=ids[PROMPT : PROMPT + WARM_UP], limit=limit / 4)
        decode = self.ask(decode=ids[PROMPT + WARM_UP : PROMPT + WARM_UP + TIMED], limit=limit)
        return {
            "prefill": PROMPT / prefill["seconds"],
            "prefill_device_bytes": prefill["device_bytes"],
            "decode": decode["tokens"] / decode["seconds"],
            "decode_tokens": decode["tokens"],
            "decode_device_bytes_per_token": decode["device_bytes"] / decode["tokens"],
        }


@contextmanager
def running(*args: Any, **options: Any) -> Iterator[Peer]:
    """A peer, ended at the end."""
    peer = Peer(*args, **options)
    try:
        yield peer
    finally:
        peer.close()


def median(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each number."""
    return {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}


def disk_rate(file: Path, record: int) -> float:
    """W in bytes/s: fio's best over block sizes and depths, random direct reads of `file`."""
    best = 0.0
    for size in (record // 4096 * 4096, 1 << 20, 4 << 20):
        for depth in (1, 4, 8, 16):
            done = subprocess.run(
                ["fio", "--name=w", f"--filename={file}", "--rw=randread", "--direct=1",
                 "--ioengine=libaio", f"--bs={size}", f"--iodepth={depth}", "--time_based",
                 "--runtime=1.5", "--readonly", "--output-format=json"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            best = max(best, json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])
    return best


def lru_misses(trace: Sequence[Sequence[Sequence[int]]], slots: int, warm: int) -> float:
    """Misses a token of plain LRU with so many slots, after `warm` tokens of the trace."""
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    misses = 0
    for at, token in enumerate(trace):
        for layer, experts in enumerate(token):
            for expert in experts:
                key = (layer, expert)
                if key in held:
                    held.move_to_end(key)
                    continue
                misses += at >= warm
                held[key] = None
                if len(held) > slots:
                    held.popitem(last=False)
    return misses / (len(trace) - warm)


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


def resident(bench: Bench) -> dict[str, Any]:
    """All in memory: llama.cpp and each precision take turns; then both at AVX2; mlx-lm alone."""
    out: dict[str, Any] = {"rows": []}
    cases = [(bench.options.llama, {}, p) for p in ("bfloat16", "float32", "int8")]
    if bench.options.llama_avx2:
        cases.append((bench.options.llama_avx2, {"MOEFLUX_SIMD": "avx2"}, "bfloat16"))
    for python, env, precision in cases:
        peer = bench.llama | {"repack": True, "mmap": False}
        ours = bench.ours | {"memory": bench.whole(), "precision": precision}
        with running(python, "llama.cpp", peer) as a, running(
            sys.executable, "moeflux", ours, env=env
        ) as b:  # fmt: skip
            b.round(bench.ids)  # reads every expert
            theirs, mine, rates = [], [], []
            for _ in range(ROUNDS):
                theirs.append(a.round(bench.ids))
                mine.append(b.round(bench.ids))
                rates.append(probe.memory(THREADS) / 1e9)
            row = {
                "precision": precision, "simd": env.get("MOEFLUX_SIMD", "best"),
                "llama.cpp": median(theirs), "moeflux": median(mine),
                "memory_gb_per_second": max(rates),
            }  # fmt: skip
        row["decode_ratio"] = row["moeflux"]["decode"] / row["llama.cpp"]["decode"]
        row["prefill_ratio"] = row["moeflux"]["prefill"] / row["llama.cpp"]["prefill"]
        gb = row["moeflux"]["decode"] * bench.touched / 1e9
        row["share_of_memory_rate"] = gb / row["memory_gb_per_second"]
        ours, theirs = row["moeflux"], row["llama.cpp"]
        print(f"resident {precision} ({row['simd']}): decode {ours['decode']:.1f} against "
              f"{theirs['decode']:.1f} tokens/s (x{row['decode_ratio']:.2f}), prefill "
              f"{ours['prefill']:.0f} against {theirs['prefill']:.0f} "
              f"(x{row['prefill_ratio']:.2f}); {gb:.1f} of {row['memory_gb_per_second']:.1f} GB/s",
              flush=True)  # fmt: skip
        out["rows"].append(row)
    if bench.options.mlx:
        with running(bench.options.mlx, "mlx-lm", bench.ours) as peer:
            seconds = peer.ask(prefill=bench.ids[:64])["seconds"]
            decode = peer.ask(decode=bench.ids[64:96], limit=60)
            out["mlx-lm"] = {"prefill_64": 64 / seconds,
                             "decode": decode["tokens"] / decode["seconds"]}  # fmt: skip
            print(f"mlx-lm on the CPU: {out['mlx-lm']}", flush=True)
    return out


def limited(bench: Bench) -> dict[str, Any]:
    """Half and a quarter of the model's bytes in memory, each engine alone in a cgroup."""
    total = bench.sizes.resident_bytes + bench.sizes.n_experts * bench.sizes.expert_bytes
    out: dict[str, Any] = {"rows": []}
    record = bench.sizes.expert_bytes
    out["disk_bytes_per_second"] = w = disk_rate(next(bench.folder.glob("*.safetensors")), record)
    everything = bench.ours | {"memory": bench.whole(), "precision": "bfloat16"}
    with running(sys.executable, "moeflux", everything) as peer:
        peer.ask(prefill=bench.ids[:PROMPT])
        tokens = bench.ids[PROMPT : PROMPT + WARM_UP + TIMED]
        trace = peer.ask(experts=tokens)["experts"]
        compute = peer.round(bench.ids)
    for share in (0.5, 0.25):
        limit = int(total * share)
        cgroup.drop_page_cache(bench.folder)
        ours = bench.ours | {"memory": str(limit - INTERPRETER), "precision": "bfloat16"}
        with cgroup.group(limit) as prefix, running(
            sys.executable, "moeflux", ours, prefix=prefix
        ) as peer:  # fmt: skip
            mine = peer.round(bench.ids, LIMIT_SECONDS)
            stats = peer.ask(stats=True)["stats"]
        cgroup.drop_page_cache(bench.folder)
        peer_options = bench.llama | {"repack": False, "mmap": True}
        theirs: dict[str, Any]
        try:
            with cgroup.group(limit) as prefix, running(
                bench.options.llama, "llama.cpp", peer_options, prefix=prefix
            ) as peer:  # fmt: skip
                theirs = peer.round(bench.ids, LIMIT_SECONDS)
        except RuntimeError as error:
            theirs = {"error": str(error)}
        misses = lru_misses(trace, stats["slots"], WARM_UP)
        bound = max(1 / compute["decode"], misses * record / w)
        sweep = bench.sizes.n_experts * record / w
        prefill_bound = max(PROMPT / compute["prefill"], sweep)
        row = {
            "share": share, "limit_bytes": limit, "slots": stats["slots"],
            "read_mode": stats["read_mode"], "moeflux": mine, "llama.cpp": theirs,
            "lru_misses_per_token": misses, "decode_bound": 1 / bound,
            "decode_share_of_bound": mine["decode"] * bound,
            "prefill_bound": PROMPT / prefill_bound,
            "prefill_share_of_bound": mine["prefill"] * prefill_bound / PROMPT,
        }  # fmt: skip
        print(f"{share:.0%} of the model: decode {mine['decode']:.2f} tokens/s, bound "
              f"{1 / bound:.2f} ({row['decode_share_of_bound']:.0%}), "
              f"prefill {mine['prefill']:.0f} "
              f"({row['prefill_share_of_bound']:.0%} of its bound); llama.cpp {theirs}",
              flush=True)  # fmt: skip
        out["rows"].append(row)
    return out


def layouts(bench: Bench) -> dict[str, Any]:
    """A quarter in memory, in place and packed, in turns; and eight sequences beside one."""
    total = bench.sizes.resident_bytes + bench.sizes.n_experts * bench.sizes.expert_bytes
    memory, packed = str(total // 4), bench.folder.with_name(bench.folder.name + "-packed")
    if not packed.exists():
        subprocess.run([sys.executable, "-m", "moeflux.cli", "pack", str(bench.folder),
                        str(packed)], check=True, capture_output=True)  # fmt: skip
    rounds: dict[str, list[dict[str, float]]] = {"in place": [], "packed": []}
    for _ in range(ROUNDS):
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


PARTS = {"resident": resident, "limited": limited, "layouts": layouts}


def main() -> None:
    """Runs the parts and writes JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--llama", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--llama-avx2", help="one whose llama.cpp was built for AVX2")
    parser.add_argument("--mlx", help="a Python that has mlx-lm")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    bench = Bench(options)
    result: dict[str, Any] = {}
    if options.out and options.out.exists():
        result = json.loads(options.out.read_text())
    for name in options.only.split(","):
        synth = json.loads((options.folder / "synth.json").read_text())
        result[name] = PARTS[name](bench) | {"machine": machine(), "model": synth}
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        draw(result, options.plot)


if __name__ == "__main__":
    main()
