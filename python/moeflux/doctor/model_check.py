"""The demo model on a device against the same on the CPU: tokens, logits, and what it took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import MoefluxError
from ..model import load

PROMPT = "def main("
N_TOKENS = 12
MAX_SLOTS = 48  # of 320 experts, 32 a token: most are read again and again
TOLERANCE = 5e-4  # of logits of about 10: what the goldens of the demo model allow


@dataclass(frozen=True)
class ModelCheck:
    """What came of it; a token's numbers are means over the tokens that were written."""

    n_tokens: int = 0  # that agreed
    error: float = 0.0  # the largest difference of a logit
    tokens_per_second: float = 0.0
    dispatches: float = 0.0
    commits: float = 0.0
    waits: float = 0.0
    problem: str | None = None


def check_model(kind: str) -> ModelCheck:
    """Writes N_TOKENS greedy tokens with the demo model on both, streaming."""
    try:
        expected, _ = _write("cpu")
        found, numbers = _write(kind)
    except MoefluxError as error:
        return ModelCheck(problem=str(error))
    return compare(expected, found, numbers)


def compare(
    expected: list[Any],
    found: list[Any],
    numbers: dict[str, float],
) -> ModelCheck:
    """Judges two runs: the logits (vocab,) of each step."""
    worst, at = 0.0, 0
    problem: str | None = None
    for at, (ours, cpus) in enumerate(zip(found, expected, strict=True)):
        difference = float(np.abs(ours - cpus).max())
        worst = max(worst, difference) if np.isfinite(difference) else float("inf")
        token, wanted = int(ours.argmax()), int(cpus.argmax())
        if not worst <= TOLERANCE:  # NaN, too
            problem = f"token {at}: a logit differs from the CPU's by {worst:.3g}"
        elif token != wanted:
            problem = f"token {at}: expected {wanted} as on the CPU, found {token}"
        else:
            continue
        break
    else:
        at, problem = len(found), None
    return ModelCheck(at, worst, numbers["tokens_per_second"], numbers["dispatches"],
                      numbers["commits"], numbers["waits"], problem)  # fmt: skip


def _write(device: str) -> tuple[list[Any], dict[str, float]]:
    """Logits before each token, and what a token took."""
    model = load(memory="64MB", context=64, device=device, max_slots=MAX_SLOTS)
    session = model.session()
    logits = [session.step(model.tokenizer.encode(PROMPT))]
    before, begin = model.stats, time.perf_counter()
    for _ in range(N_TOKENS - 1):
        logits.append(session.step([int(logits[-1].argmax())]))
    seconds, after = time.perf_counter() - begin, model.stats
    numbers = {
        name: (after[name] - before[name]) / (N_TOKENS - 1)
        for name in ("dispatches", "commits", "waits")
    }
    return logits, numbers | {"tokens_per_second": (N_TOKENS - 1) / seconds}
