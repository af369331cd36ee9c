"""Import, load and decode times of the demo model, with a part and all of its experts in memory.

    python benchmarks/demo.py            # prints
    python benchmarks/demo.py --write    # also into benchmarks/results/demo.json and README's table

Medians of several runs in one process each. Experts are read directly (past the page cache) where
`read_mode` says so; the drive's own cache is beyond us, so neither "cold" nor "warm" is claimed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from moeflux.device import usable_cores

HERE = Path(__file__).parent
PROMPT, RESULTS, README = (
    HERE / "data/heldout.txt",
    HERE / "results/demo.json",
    HERE / "../README.md",
)
N_PROMPT, N_DECODE, REPEATS = 256, 128, 5


def machine() -> dict[str, str]:
    """What the numbers were measured on."""

    def says(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    if sys.platform == "darwin":
        cpu = says("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        text = Path("/proc/cpuinfo").read_text()
        cpu = text.partition("model name")[2].partition(":")[2].splitlines()[0].strip()
    commit = says("git", "describe", "--always", "--dirty", "--exclude", "*")
    usable, cores = usable_cores(), os.cpu_count()
    return {
        "cpu": cpu,
        "cores": str(cores) if usable == cores else f"{usable} of {cores}",
        "python": platform.python_version(),
        "commit": commit,
    }


def import_seconds() -> float:
    """Median wall time that `import moeflux` adds to an interpreter's start."""
    times = []
    for _ in range(REPEATS):
        pair = []
        for code in ("pass", "import moeflux"):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            pair.append(time.perf_counter() - begin)
        times.append(pair[1] - pair[0])
    return statistics.median(times)


def run(memory: str) -> dict[str, object]:
    """One model at one budget: medians over REPEATS sessions."""
    import moeflux

    begin = time.perf_counter()
    model = moeflux.load(memory=memory, context=512)
    load_seconds = time.perf_counter() - begin
    ids = model.tokenizer.encode(PROMPT.read_text())[:N_PROMPT]
    prefill, decode = [], []
    for _ in range(REPEATS):
        session = model.session()
        begin = time.perf_counter()
        logits = session.step(ids)
        prefill.append(N_PROMPT / (time.perf_counter() - begin))
        begin = time.perf_counter()
        for _ in range(N_DECODE):
            logits = session.step([int(logits.argmax())])
        decode.append(N_DECODE / (time.perf_counter() - begin))
    stats = model.stats
    return {
        "memory": memory,
        "load_seconds": round(load_seconds, 4),
        "prefill_tokens_per_second": round(statistics.median(prefill), 1),
        "decode_tokens_per_second": round(statistics.median(decode), 1),
        "hit_rate": round(stats["hits"] / (stats["hits"] + stats["misses"]), 3),
        "share_of_time_waiting_for_reads": round(
            stats["wait_seconds"] / (stats["wait_seconds"] + stats["compute_seconds"]), 3
        ),
        "slots": f"{stats['slots']} of 320",
        "read_mode": stats["read_mode"],
        "simd": stats["simd"],
    }


def table(results: dict[str, object]) -> str:
    """The runs as README shows them."""
    head = ("memory", "experts in memory", "hit rate", "prompt of 256, tokens/s",
            "decode, tokens/s", "time waiting for reads")  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for run in results["runs"]:
        waiting = run["share_of_time_waiting_for_reads"]
        rows.append((run["memory"].replace("MB", " MB"), run["slots"],
                     f"{100 * run['hit_rate']:.0f} %",
                     f"{run['prefill_tokens_per_second']:,.0f}",
                     f"{run['decode_tokens_per_second']:,.0f}",
                     f"{100 * waiting:.0f} %"))  # fmt: skip
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace(" --- ", "---")


def with_table(readme: str, results: dict[str, object]) -> str:
    """README's text with the runs between its marks."""
    begin, mark, rest = readme.partition("<!-- demo: benchmarks/demo.py -->\n")
    _, end, rest = rest.partition("<!-- /demo -->")
    return begin + mark + table(results) + end + rest


def report(results: dict[str, object], out: Path | None) -> None:
    """Prints what was measured and, where `out` names a file, writes it there."""
    text = json.dumps(results, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


def main() -> None:
    """Measures, prints and optionally writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="the results file and README's table")
    args = parser.parse_args()
    results = {
        "machine": machine(),
        "import_seconds": round(import_seconds(), 3),
        "runs": [run(memory) for memory in ("14MB", "17MB", "40MB")],
    }
    report(results, RESULTS if args.write else None)
    if args.write:
        README.write_text(with_table(README.read_text(), results))


if __name__ == "__main__":
    main()
