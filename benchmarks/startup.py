"""How fast a model is there: the rate of a load, and the demo model's first token.

    python benchmarks/startup.py --folder DIR [--out FILE]

Load: a checkpoint (moeflux synth) whose pages were dropped from the cache; its resident bytes over
the seconds of `load`, in turns with fio at its best setting on the same file; bar 80 %. The first
load of a process is told from those that follow: fresh memory costs a virtual machine a fault on
its host, whatever is then read into it. First token:
from the start of a process to the first token of the demo model, through the library and through
the command line; bar 1 s. Medians. Linux, root (pages are dropped).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from compare import disk_rates, fio
from demo import machine

from moeflux.checkpoint import open_checkpoint
from moeflux.device import default_threads
from moeflux.families import build_spec
from moeflux.planning import plan
from support import cgroup

ROUNDS, CONTEXT = 5, 1024
LOAD = """
import sys, time, moeflux
for _ in range(2):
    begin = time.perf_counter()
    model = moeflux.load(sys.argv[1], memory=int(sys.argv[2]), context=int(sys.argv[3]))
    print(time.perf_counter() - begin)
    assert model.stats["read_mode"] == "direct"  # else the second load would be the cache's
    del model
"""
LIBRARY = """
import moeflux
model = moeflux.load(memory="17MB", context=512)
session = model.session()
print(model.tokenizer.decode([int(session.step(model.tokenizer.encode("def main(")).argmax())]))
"""
FIRST_TOKEN = {
    "library": [sys.executable, "-c", LIBRARY],
    "command": [sys.executable, "-m", "moeflux.cli", "generate", "def main(", "--memory", "17MB",
                "--context", "512", "--max-tokens", "1", "--temperature", "0"],
    "interpreter": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import moeflux"],
}  # fmt: skip


def load_rate(folder: Path) -> dict[str, Any]:
    """Cold loads of a checkpoint."""
    checkpoint = open_checkpoint(folder)
    sizes = plan.measure(checkpoint, build_spec(checkpoint), CONTEXT, default_threads())
    memory = sizes.fixed_bytes + sizes.cycle_slots * sizes.slot_bytes
    file = max(checkpoint.files, key=lambda path: path.stat().st_size)
    rates = disk_rates(file, sizes.expert_bytes)
    setting = max(rates, key=lambda key: rates[key])
    rounds = []
    for _ in range(ROUNDS):
        disk = fio(file, *setting)
        cgroup.drop_page_cache(folder)
        done = subprocess.run([sys.executable, "-c", LOAD, str(folder), str(memory), str(CONTEXT)],
                              capture_output=True, text=True, check=True)  # fmt: skip
        first, again = (sizes.resident_bytes / float(line) for line in done.stdout.split())
        rounds.append({"disk": disk, "first": first, "again": again})
    row: dict[str, Any] = {
        "resident_bytes": sizes.resident_bytes, "fio": {"size": setting[0], "depth": setting[1]},
        "bytes_per_second": rounds,
    }  # fmt: skip
    for name in ("first", "again"):
        row[f"{name}_share_of_disk"] = statistics.median(r[name] / r["disk"] for r in rounds)
    return row


def first_token() -> dict[str, float]:
    """Seconds from a process's start to its end, which comes right after its first token."""
    found: dict[str, list[float]] = {name: [] for name in FIRST_TOKEN}
    for _ in range(ROUNDS):
        for name, command in FIRST_TOKEN.items():
            begin = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            found[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    load, first = load_rate(options.folder), first_token()
    rates = {name: statistics.median(r[name] for r in load["bytes_per_second"]) / 1e9
             for name in ("disk", "first", "again")}  # fmt: skip
    print(f"load of {load['resident_bytes'] / 1e6:.0f} MB: {rates['first']:.2f} GB/s, again in the "
          f"same process {rates['again']:.2f}; fio {rates['disk']:.2f} "
          f"({load['first_share_of_disk']:.0%}, {load['again_share_of_disk']:.0%})")  # fmt: skip
    print("first token, seconds from the process's start: "
          + ", ".join(f"{name} {seconds:.2f}" for name, seconds in first.items()))  # fmt: skip
    if options.out:
        result = {"machine": machine(), "load": load, "first_token_seconds": first}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
