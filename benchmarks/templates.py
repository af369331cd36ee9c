"""How long a render of a chat template takes: alone, with tools, and for an agent's prompt.

    PYTHONPATH=tests python benchmarks/templates.py [--rounds 300]

Templates and talks of tests/golden/chat_templates.json, through `Tokenizer.apply_template`: each
process is started, then asked `--rounds` times; milliseconds, median and 99 of 100. "agent" is the
template for tools in the manner of Hermes with 24 tools of 2.6 kB and a talk of 200 messages.
Prints a table in Markdown. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from demo import machine

from moeflux.tokenizer import Tokenizer
from oracle import goldens, tokenizer_file

GOLDEN = json.loads((goldens.FOLDER / "chat_templates.json").read_text(encoding="utf-8"))
FIELDS = {f"field {i}": {"type": "string", "description": "word " * 40} for i in range(10)}


def tokenizer_of(name: str, folder: Path) -> Tokenizer:
    """The oracle's tokenizer with a template of the goldens."""
    tokenizer_file.write_tokenizer(folder, GOLDEN["added"])
    text = "\n".join(GOLDEN["templates"][name]["lines"])
    settings = GOLDEN["settings"] | {"eos_token": "<|im_end|>", "chat_template": text}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return Tokenizer(folder, {})


def agent() -> tuple[list[Any], dict[str, Any]]:
    """A talk as coding agents hold it."""
    parameters = {"type": "object", "properties": FIELDS}
    function = {"name": "edit", "description": "d", "parameters": parameters}
    turns = [*GOLDEN["talks"]["tools"][1:-1], {"role": "user", "content": "word " * 100}] * 34
    return turns[:200], {"tools": [{"type": "function", "function": function}] * 24}


def measured(tokenizer: Tokenizer, messages: Any, options: Any, rounds: int) -> dict[str, Any]:
    """Milliseconds of the first render, which starts the process, and of the others."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        text = tokenizer.apply_template(messages, **options)
        times.append(1e3 * (time.perf_counter() - begin))
    kept = sorted(times[1:])
    return {"chars": len(text), "first": times[0], "median": statistics.median(kept),
            "p99": kept[int(0.99 * len(kept))]}  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    rows, medians = [], []
    with tempfile.TemporaryDirectory() as name:
        for template, case in GOLDEN["templates"].items():
            tokenizer = tokenizer_of(template, Path(name))
            for render in case["renders"]:
                if "text" in render:
                    found = measured(tokenizer, *goldens.chat(GOLDEN, render), rounds // 10)
                    medians.append(found["median"])
        for title, template, (messages, options) in (
            ("a question", "chatml", (GOLDEN["talks"]["one"], {})),
            ("tools, six messages", "hermes tools",
             (GOLDEN["talks"]["tools"], {"tools": GOLDEN["tools"]})),
            ("agent", "hermes tools", agent()),
        ):  # fmt: skip
            found = measured(tokenizer_of(template, Path(name)), messages, options, rounds)
            rows.append(f"| {title} | {found['chars']:,} | {found['first']:.0f} | "
                        f"{found['median']:.2f} | {found['p99']:.2f} |")  # fmt: skip
    host = machine()
    print(f"At {host['commit']}, {host['cores']} cores of {host['cpu']}, Python {host['python']}, "
          f"load {os.getloadavg()[0]:.1f}.")  # fmt: skip
    print(f"\nMedian of the medians of {len(medians)} renders of the goldens: "
          f"{statistics.median(medians):.2f} ms, the slowest {max(medians):.2f} ms.\n")  # fmt: skip
    print("| prompt | characters | first, ms | median, ms | 99 of 100, ms |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
