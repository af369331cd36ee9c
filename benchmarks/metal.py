"""A device's kernels and whole models on it: rates of each matvec, prefill and decode, counts.

    python benchmarks/metal.py [--device metal] [--model FOLDER] [--memory 12GiB] [--out FILE]

Kernels: bytes of weights that go through, at the shapes of `moeflux doctor`. The model: a prompt
and greedy tokens on the device and on the CPU, with the tokens compared, and a token's dispatches,
commits and waits. `--device host` runs the shaders on the CPU: its counts are those of a GPU, its
times say nothing of one, and the JSON says so.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo import machine, report

import moeflux
from moeflux.doctor import speed

REPEATS = 5
NOT_A_GPU = "shaders run on the CPU: these times are no GPU's"


def kernels(device: str) -> list[dict[str, Any]]:
    """Rates of the matvec kernels."""
    found = speed.measure_all(moeflux.Backend(device), lambda _: None, REPEATS)
    return [asdict(rate) for rate in found]


def run(model: str | None, memory: str, device: str, prompt: int, tokens: int) -> dict[str, Any]:
    """Prefill and decode of one model on one device, a text of its own choice after the prompt."""
    loaded = moeflux.load(model, memory=memory, context=prompt + tokens, device=device)
    ids = [i * 7919 % loaded.vocab_size for i in range(prompt)]
    session = loaded.session()
    begin = time.perf_counter()
    logits = session.step(ids)
    prefill = time.perf_counter() - begin
    before, written = loaded.stats, []
    begin = time.perf_counter()
    for _ in range(tokens):
        written.append(int(logits.argmax()))
        logits = session.step(written[-1:])
    decode = time.perf_counter() - begin
    after = loaded.stats

    def grown(name: str) -> float:
        return float(after[name] - before[name])

    kernels_of_a_token = {
        name: (count - before["kernels"].get(name, 0)) / tokens
        for name, count in after["kernels"].items()
        if count > before["kernels"].get(name, 0)
    }
    return {
        "device": device,
        "device_name": after["device_name"],
        "prefill_tokens_per_second": prompt / prefill,
        "decode_tokens_per_second": tokens / decode,
        "hit_rate": grown("hits") / max(grown("hits") + grown("misses"), 1),
        "per_token": {k: grown(k) / tokens for k in ("dispatches", "commits", "waits")},
        "kernels_per_token": kernels_of_a_token,
        "live_bytes": after["live_bytes"],
        "tokens": written,
    }


def main() -> None:
    """Measures, prints and optionally writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="metal", choices=("metal", "host"))
    parser.add_argument("--model", help="folder or hub id; the demo model when not given")
    parser.add_argument("--memory", default="40MB")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--no-kernels", action="store_true", help="the model alone")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    work = (args.model, args.memory)
    on_device = run(*work, args.device, args.prompt, args.tokens)
    on_cpu = run(*work, "cpu", args.prompt, args.tokens)
    results = {
        "machine": machine(),
        "note": NOT_A_GPU if args.device == "host" else "measured on the GPU that is named",
        "kernels": [] if args.no_kernels else kernels(args.device),
        "model": str(args.model or "demo"),
        "same_tokens": on_device["tokens"] == on_cpu["tokens"],
        "runs": [on_device, on_cpu],
    }
    report(results, args.out)


if __name__ == "__main__":
    main()
