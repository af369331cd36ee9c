"""What a model reaches on this machine, beside what the machine could: the work of `moeflux bench`.

The bound of a token is `max(bytes it touches / memory rate, bytes it must read / disk rate)`, both
rates measured in the same run (probe.py). Tokens are given, not sampled, so that runs compare; the
sampler is timed all the same. Whether the reads were cold is not claimed but counted: bytes that
really came from the device, from /proc/self/io.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import Model, load
from .planning.plan import Sizes
from .planning.rates import Machine
from .sampling import Sampler, SamplingParams
from .session import Session

Progress = Callable[[str], None]
COUNTERS = ("compute_seconds", "wait_seconds", "hits", "misses", "bytes_read", "reading_seconds",
            "ahead_reads", "ahead_used", "commits", "waits", "dispatches")  # fmt: skip
OF_RUN = ("slots", "live_bytes", "memory_bytes", "read_mode", "simd", "kv", "device_name")


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        memory: the budget, as for `load`.
        threads: compute threads.
        precision: as for `load`.
        prompt: tokens of the prompt.
        warmup: tokens decoded before the clock starts.
        tokens: tokens decoded on the clock.
        sequences: decoded together, a token of each a step.
        device: as for `load`.
        read_ahead: as for `load`.
        kv: as for `load`.
    """

    memory: str
    threads: int
    precision: str
    prompt: int = 512
    warmup: int = 64
    tokens: int = 256
    sequences: int = 1
    device: str = "cpu"
    read_ahead: bool = True
    kv: str | None = None

    @property
    def context(self) -> int:
        """Positions that a session needs."""
        return self.prompt + self.warmup + self.tokens + 1


@dataclass(frozen=True)
class Phase:
    """What a stretch of work cost. Rates are 0 where nothing was moved."""

    tokens: int
    seconds: float
    compute_seconds: float
    wait_seconds: float
    sampler_seconds: float
    hits: int
    misses: int
    bytes_read: int
    reading_seconds: float
    ahead_reads: int
    ahead_used: int
    device_bytes: int | None
    bound_seconds: float
    commits: int
    waits: int
    dispatches: int

    @property
    def tokens_per_second(self) -> float:
        """Of all sequences together."""
        return self.tokens / self.seconds

    def report(self) -> dict[str, Any]:
        """All of it, with what follows from it."""
        uses = self.hits + self.misses
        other = self.seconds - self.compute_seconds - self.wait_seconds - self.sampler_seconds
        return asdict(self) | {
            "tokens_per_second": self.tokens_per_second,
            "hit_rate": self.hits / uses if uses else None,
            "gb_read_per_token": self.bytes_read / 1e9 / self.tokens,
            "per_token": {
                "commits": self.commits / self.tokens,
                "waits": self.waits / self.tokens,
                "dispatches": self.dispatches / self.tokens,
            },
            "disk_gb_per_second": self.bytes_read / 1e9 / self.seconds,
            "share_of_bound": self.bound_seconds / self.seconds,
            # No read under way: which experts are missing is not known before a router has run.
            "router_stall": max(1 - self.reading_seconds / self.seconds, 0.0) if self.misses else 0,
            "share_of_time": {
                "compute": self.compute_seconds / self.seconds,
                "read wait": self.wait_seconds / self.seconds,
                "sampler": self.sampler_seconds / self.seconds,
                "other": max(other, 0.0) / self.seconds,
            },
        }


def device_bytes() -> int | None:
    """Bytes this process has caused to be read from devices; None where nobody counts them."""
    try:
        for line in Path("/proc/self/io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    except OSError:
        pass
    return None


class _Clock:
    """Differences of the model's counters over a stretch."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._before = model.stats
        self._device = device_bytes()
        self._begin = time.perf_counter()

    def stop(self, tokens: int, sampler_seconds: float, bound: Callable[[int], float]) -> Phase:
        seconds = time.perf_counter() - self._begin
        after, device = self._model.stats, device_bytes()

        grown = {name: after[name] - self._before[name] for name in COUNTERS}
        return Phase(
            tokens=tokens,
            seconds=seconds,
            sampler_seconds=sampler_seconds,
            device_bytes=None if device is None or self._device is None else device - self._device,
            bound_seconds=bound(grown["bytes_read"]),
            **grown,
        )


def _advance(model: Model, sessions: Sequence[Session], tokens: Sequence[Sequence[int]]) -> Any:
    """One step of each session; logits of the first."""
    if len(sessions) == 1:
        return sessions[0].step(tokens[0])
    return model.step_batch(list(zip(sessions, tokens, strict=True)))[0]


def _decode(model: Model, sessions: Sequence[Session], fed: NDArray[np.int64]) -> float:
    """A step for each column of tokens; returns the seconds that a sampler takes on top."""
    sampler = Sampler(SamplingParams(temperature=0.7, top_p=0.9, seed=0))
    seconds = 0.0
    for tokens in fed.T:
        logits = _advance(model, sessions, [[int(token)] for token in tokens])
        begin = time.perf_counter()
        sampler.choose(logits)
        seconds += time.perf_counter() - begin
    return seconds


def measure(
    path: str | Path | None,
    sizes: Sizes,
    setting: Setting,
    machine: Machine,
    ids: Sequence[int],
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Runs one setting: load, prompt, warm-up, decode.

    Args:
        path: of the model, as for `load`.
        sizes: of the same model (plan.measure).
        setting: what to run.
        machine: rates that the bounds are computed from.
        ids: tokens to feed; each sequence takes its own stretch, repeated where they end.
        progress: told what is being done.

    Returns:
        A dict for JSON: the setting, "load_seconds", "time_to_first_token", the phases "prefill"
        and "decode" (see Phase.report), slots, live bytes.
    """
    touched = sizes.dense_token_bytes + sizes.expert_token_bytes
    progress("load")
    begin = time.perf_counter()
    model = load(path, memory=setting.memory, context=setting.context, threads=setting.threads,
                 precision=setting.precision, device=setting.device,
                 read_ahead=setting.read_ahead, kv=setting.kv)  # fmt: skip
    load_seconds = time.perf_counter() - begin
    n, length = setting.sequences, setting.context
    sessions = [model.session() for _ in range(n)]  # first: the budget bounds their number
    fed = np.resize(np.asarray(ids, dtype=np.int64), n * length).reshape(n, length)

    progress(f"prompt of {setting.prompt}")
    clock = _Clock(model)
    for session, row in zip(sessions, fed, strict=True):
        session.step(row[: setting.prompt].tolist())
    # A prompt reuses what it has read: its floor is one pass over the weights, and its own reads.
    floor = n * sizes.dense_token_bytes / machine.memory_rate
    prefill = clock.stop(n * setting.prompt, 0.0,
                         lambda read: max(floor, read / machine.disk.best))  # fmt: skip

    warm = setting.prompt + setting.warmup
    progress("warm-up")
    _decode(model, sessions, fed[:, setting.prompt : warm])
    progress("decode")
    clock = _Clock(model)
    sampler_seconds = _decode(model, sessions, fed[:, warm : warm + setting.tokens])

    def bound(read: int) -> float:
        # Sequences share a pass over dense weights and, at best, over the experts of one of them.
        return max(setting.tokens * touched / machine.memory_rate, read / machine.disk.best)

    decode = clock.stop(n * setting.tokens, sampler_seconds, bound)
    stats = model.stats
    return {
        "setting": asdict(setting),
        "load_seconds": load_seconds,
        "time_to_first_token": prefill.seconds / n,
        "prefill": prefill.report(),
        "decode": decode.report(),
        "memory_gb_per_second": touched * setting.tokens / 1e9 / decode.seconds,
        **{name: stats[name] for name in OF_RUN},
    }
