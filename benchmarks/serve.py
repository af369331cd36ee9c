"""What the server costs and how it shares: each number beside the bar that it is held against.

    PYTHONPATH=tests python benchmarks/serve.py [--short] [--only NAME ...] [--out FILE]

    rates     tokens a second of the engine beside `step_batch` and a sampler in a plain loop, 1,
              16 and 64 streams; the part of a step that is Python, in processor seconds
    prompts   bytes that four prompts at once read, a quarter of the experts in memory
    clients   64 equal clients, a quarter of the experts in memory: fairness, texts, memory, rate
    cancel    how soon what nobody waits for is gone
    cached    the first token of a long prompt from the cache, in memory and on disk
    beside    answers that are written while a prompt is computed
    agents    what the second request of recorded agents finds cached
    sampler   a token of 151,936
    grammar   a mask of 151,936 tokens
    events    the event loop's processor for an event of a stream and for a request, over HTTP
    crowd     eight clients beside connections that do nothing
    start     from the command to the first connection

The demo model where no other is named; ratios are of medians of turns within a run. --short takes
some minutes also beside other work, whose times then say little; ratios of the processor still do.
Files are in the page cache ("warm"). Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo import machine
from serving import SHORT, Options, Row, engines, parts, process, prompts

PARTS = {
    "rates": engines.rates,
    "prompts": engines.prompts_together,
    "clients": engines.clients,
    "cancel": engines.cancelled,
    "cached": prompts.cached,
    "beside": prompts.beside,
    "agents": prompts.agents,
    "sampler": parts.sampler,
    "grammar": parts.grammar,
    "events": process.events,
    "crowd": process.crowd,
    "start": process.start,
}


def told(row: Row) -> str:
    """A row of a table in Markdown."""
    sign = ">=" if row.least else "<="
    bar = f"{sign} {row.bar:g} {row.unit}" if row.bar is not None else ""
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    return f"| {row.what} | {row.value:.3g} {row.unit} | {bar} | {met} |"


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = SHORT if given.short else Options()
    found: dict[str, Any] = {
        "machine": machine(), "files": "warm", "short": given.short, "load": os.getloadavg()[0],
        "rows": [],
    }  # fmt: skip
    print("| number | reached | bar | met |\n|---|---|---|---|")
    for name in given.only:
        begin = time.perf_counter()
        for row in PARTS[name](options):
            print(told(row), flush=True)
            found["rows"].append({"part": name, **asdict(row), "met": row.met})
        print(f"<!-- {name}: {time.perf_counter() - begin:.0f} s -->", flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
