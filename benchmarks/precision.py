"""What each precision and type of KV cache costs and buys: divergence from float32, and speed.

    python benchmarks/precision.py [--model FOLDER] [--tokens 4096] [--out benchmarks/results/precision.json]

Mean KL divergence (nats a token) of the next-token distribution from that of float32, and the share
of tokens whose most likely continuation is the same, over windows of held-out text; tokens a second
of prefill and of decode, medians over interleaved rounds in one run. The bars are issue 5's.
"""  # noqa: E501

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
from demo import machine

import moeflux

TEXT = Path(__file__).parent / "data" / "heldout.txt"
SETTINGS: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "int8": {"precision": "int8"},
    "float32, kv bfloat16": {"kv": "bfloat16"},
    "float32, kv int8": {"kv": "int8"},
    "int8, kv int8": {"precision": "int8", "kv": "int8"},
}
BARS = {"bfloat16": 1e-3, "int8": 5e-3, "float32, kv int8": 1e-3}  # nats a token
AGREEMENT_BAR = 0.98
WINDOW, N_DECODE, ROUNDS = 256, 64, 5


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergence(reference: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Mean KL divergence from `reference` logits in nats, and top-1 agreement."""
    log_p, log_q = log_softmax(reference), log_softmax(logits)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return float(kl.mean()), float((log_p.argmax(-1) == log_q.argmax(-1)).mean())


def window_logits(model: moeflux.Model, ids: list[int]) -> np.ndarray:
    """Logits after every token; each window starts from an empty session."""
    session = model.session()
    out = []
    for begin in range(0, len(ids), WINDOW):
        session.reset()
        out.append(session.step(ids[begin : begin + WINDOW], all_logits=True))
    return np.concatenate(out)


def speeds(model: moeflux.Model, ids: list[int]) -> tuple[float, float]:
    """Tokens a second of one prefill and of the decode behind it."""
    session = model.session()
    begin = time.perf_counter()
    logits = session.step(ids[:WINDOW])
    prefill = WINDOW / (time.perf_counter() - begin)
    begin = time.perf_counter()
    for _ in range(N_DECODE):
        logits = session.step([int(logits.argmax())])
    return prefill, N_DECODE / (time.perf_counter() - begin)


def measure(path: str | None, memory: str, n_tokens: int) -> dict[str, dict[str, float]]:
    """One row a setting."""
    models = {
        name: moeflux.load(path, memory=memory, context=WINDOW + N_DECODE, **setting)
        for name, setting in SETTINGS.items()
    }
    ids = models["float32"].tokenizer.encode(TEXT.read_text())[:n_tokens]
    rows = {}
    reference = window_logits(models["float32"], ids)
    for name, model in models.items():
        logits = reference if name == "float32" else window_logits(model, ids)
        kl, agreement = divergence(reference, logits)
        session = model.session()
        cache = (session.bytes(256) - session.bytes(0)) / 256
        rows[name] = {"kl_nats": kl, "agreement": agreement, "cache_bytes_a_token": cache}
    rounds = [{name: speeds(model, ids) for name, model in models.items()} for _ in range(ROUNDS)]
    for name, row in rows.items():
        row["prefill_tokens_per_second"] = statistics.median(r[name][0] for r in rounds)
        row["decode_tokens_per_second"] = statistics.median(r[name][1] for r in rounds)
    return rows


def main() -> None:
    """Measures, prints a table, optionally writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder; without it the demo model")
    parser.add_argument("--memory", default="1GiB", help="budget of each model")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = measure(args.model, args.memory, args.tokens)
    print("| precision | mean KL, nats a token | same top-1 | cache, bytes a token "
          "| prefill tok/s | decode tok/s |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for name, row in rows.items():
        print(
            f"| {name} | {row['kl_nats']:.2e} | {row['agreement']:.2%} "
            f"| {row['cache_bytes_a_token']:.0f} "
            f"| {row['prefill_tokens_per_second']:.0f} | {row['decode_tokens_per_second']:.0f} |"
        )
    missed = [
        name
        for name, bar in BARS.items()
        if rows[name]["kl_nats"] > bar or rows[name]["agreement"] < AGREEMENT_BAR
    ]
    print(f"bars missed: {', '.join(missed) or 'none'}")
    if args.out:
        result = {"machine": machine(), "tokens": args.tokens, "precisions": rows}
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
