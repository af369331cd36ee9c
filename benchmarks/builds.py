"""Two builds of this project beside each other: the same bits, and the same speed.

    python benchmarks/builds.py bits  BASE [HEAD] [--simd NAME ...]
    python benchmarks/builds.py speed BASE [HEAD] --folder DIR [--pairs 15] [--out FILE]

BASE and HEAD are revisions of git; without HEAD it is the working tree. A revision is built once,
into build/builds/REVISION. `bits` computes the logits, experts and hidden states of every golden's
checkpoint with both, on each instruction set that this machine has and at each precision, and names
the arrays that differ in any bit. `speed` starts the two in turns, a process each, and prints the
median ratio head / base of each number with the interval that holds it at 95 % (bootstrap over
pairs): load, prompt and decode of the checkpoint DIR (moeflux synth) in memory, and of the demo
model with a part of its experts in memory. Ends with 1 where bits differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIMD = ("portable", "avx2", "avx512", "neon")  # MOEFLUX_SIMD's names
PRECISIONS = ("float32", "bfloat16", "int8")
N_PROMPT, N_DECODE = 256, 64
CHUNK = 7  # positions that are stepped by themselves behind a golden's prompt


def build(revision: str | None) -> Path:
    """Installs a revision into a folder of its own; the working tree always anew."""
    done = subprocess.run(["git", "rev-parse", "--short=10", revision or "HEAD"], cwd=ROOT,
                          check=True, capture_output=True, text=True)  # fmt: skip
    target = ROOT / "build" / "builds" / (done.stdout.strip() if revision else "worktree")
    if revision and (target / "moeflux").is_dir():
        return target
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target"]
    with TemporaryDirectory() as folder:
        source = ROOT
        if revision:
            source = Path(folder) / "source"
            subprocess.run(["git", "worktree", "add", "-q", "--detach", source, revision],
                           cwd=ROOT, check=True)  # fmt: skip
        try:
            subprocess.run([*install, target, source], check=True)
        finally:
            if revision:
                subprocess.run(["git", "worktree", "remove", "--force", source], cwd=ROOT)
    return target


def child(target: Path, what: str, *args: str, simd: str = "") -> Any:
    """The answer of this file run against a build."""
    env = os.environ | {"PYTHONPATH": f"{target}{os.pathsep}{ROOT / 'tests'}"}
    if simd:
        env["MOEFLUX_SIMD"] = simd
    done = subprocess.run([sys.executable, __file__, f"_{what}", *args], env=env,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{target}: {done.stderr}")
    return json.loads(done.stdout)


def hashes(folder: str, precision: str) -> dict[str, str]:
    """By golden and array: a hash of what this build computes, of the families that it knows."""
    import moeflux
    from oracle import goldens

    found = {}
    for name, case in goldens.CASES.items():
        path = Path(folder) / name
        if not path.exists():
            case.build(path)
        tokens = goldens.load(name).tokens
        with_misses = {"memory": "64MiB", "context": 128, "precision": precision, "max_slots": 6}
        try:
            session = moeflux.load(path, **with_misses).session()
        except moeflux.FormatError as error:
            if "unknown model_type" in str(error):
                continue
            raise
        whole = session.step(tokens[:-CHUNK], all_logits=True,
                             capture={"experts", "hidden", "router"})  # fmt: skip
        arrays = dict(whole) | {"decode": np.stack([session.step([t]) for t in tokens[-CHUNK:]])}
        for key, array in arrays.items():
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            found[f"{name} {key}"] = digest
    return found


def runs(target: Path, simd: str) -> bool:
    """Whether a build has an instruction set that this machine has."""
    code = "import moeflux; moeflux.load(memory='17MB', context=64)"
    env = os.environ | {"MOEFLUX_SIMD": simd, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    return done.returncode == 0


def compare_bits(base: Path, head: Path, names: Sequence[str]) -> int:
    """Prints what differs; returns how many arrays do."""
    different = 0
    with TemporaryDirectory() as folder:
        for simd in names:
            for precision in PRECISIONS:
                first, second = (
                    child(target, "hashes", folder, precision, simd=simd) for target in (base, head)
                )
                bad = [key for key in first if first[key] != second.get(key)]
                different += len(bad)
                print(f"{simd}, {precision}: {len(first)} arrays, {len(bad)} differ", *bad[:8],
                      sep="\n  ", flush=True)  # fmt: skip
    return different


def seconds(step: Callable[[Sequence[int]], Any], feeds: Sequence[Sequence[int]]) -> float:
    """How long a session takes for these steps."""
    begin = time.perf_counter()
    for ids in feeds:
        step(ids)
    return time.perf_counter() - begin


def timings(folder: str) -> dict[str, float]:
    """Seconds of a process: of the checkpoint in memory, and of the demo model at 17 MB."""
    import moeflux

    found = {}
    ids = [int(t) for t in np.random.default_rng(7).integers(0, 1000, N_PROMPT + N_DECODE)]
    prompt, decode = [ids[:N_PROMPT]], [[token] for token in ids[N_PROMPT:]]
    for name, model, options in (
        ("resident", [folder], {"memory": "12GiB", "precision": "bfloat16"}),
        ("demo", [], {"memory": "17MB"}),
    ):
        begin = time.perf_counter()
        session = moeflux.load(*model, context=1024, **options).session()
        found[f"{name} load"] = time.perf_counter() - begin
        seconds(session.step, prompt)  # fresh memory costs the system's time, not ours
        session.reset()
        found[f"{name} prompt"] = seconds(session.step, prompt)
        found[f"{name} decode"] = seconds(session.step, decode)
    return found


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """Median of the pairs' ratios and its 95 % interval."""
    rng = np.random.default_rng(1)
    medians = np.median(rng.choice(ratios, (4000, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return {"median": round(float(np.median(ratios)), 4), "low": round(float(low), 4),
            "high": round(float(high), 4)}  # fmt: skip


def compare_speed(base: Path, head: Path, folder: str, pairs: int) -> dict[str, Any]:
    """Ratios head / base of seconds, smaller is better."""
    rows = []
    for index in range(pairs):
        order = [(0, base), (1, head)][:: 1 if index % 2 else -1]
        pair = {which: child(target, "timings", folder) for which, target in order}
        rows.append({key: pair[1][key] / pair[0][key] for key in pair[0]})
        print(f"{index + 1}/{pairs}", {k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
    return {key: interval([row[key] for row in rows]) for key in rows[0]}


def main() -> None:
    """Builds both, compares, prints."""
    if sys.argv[1:2] == ["_hashes"] or sys.argv[1:2] == ["_timings"]:
        print(json.dumps({"_hashes": hashes, "_timings": timings}[sys.argv[1]](*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("bits", "speed"))
    parser.add_argument("base")
    parser.add_argument("head", nargs="?")
    parser.add_argument("--simd", nargs="+")
    parser.add_argument("--folder", help="a checkpoint that fits into memory (moeflux synth)")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    base, head = build(args.base), build(args.head)
    if args.what == "bits":
        raise SystemExit(
            compare_bits(base, head, args.simd or [s for s in SIMD if runs(head, s)]) > 0
        )
    from demo import machine

    ratios = compare_speed(base, head, args.folder, args.pairs)
    result = {"machine": machine(), "base": base.name, "head": head.name, "pairs": args.pairs,
              "seconds head / base": ratios}  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
