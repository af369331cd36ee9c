"""What Prometheus reads. Names are those of docs/server.md; told once a step or a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)

from .engine import ModelInfo, Usage

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one engine, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = of = CollectorRegistry()
        self.requests = Counter("moeflux_requests_total", "Requests.", ["api", "code"], registry=of)
        self.preemptions = Counter(
            "moeflux_preemptions_total", "Choices that lost their session to others.", registry=of
        )
        self._running = Gauge("moeflux_requests_running", "Choices that run.", registry=of)
        self._waiting = Gauge("moeflux_requests_waiting", "Choices in the queue.", registry=of)
        self._usage = Gauge(
            "moeflux_kv_usage_ratio", "Session bytes of those that sessions can take.", registry=of
        )
        self._prompt = Counter(
            "moeflux_prompt_tokens_total", "Tokens of prompts.", ["source"], registry=of
        )
        self._generated = Counter(
            "moeflux_generated_tokens_total", "Tokens of answers.", registry=of
        )
        self._ttft = _seconds("moeflux_ttft_seconds", "From a request to its first token.", of)
        self._between = _seconds("moeflux_inter_token_seconds", "Means of choices.", of)
        self._queue = _seconds("moeflux_queue_seconds", "From a request to its admission.", of)
        self._step = Histogram(
            "moeflux_step_seconds", "Steps.", ["kind"], buckets=SECONDS, registry=of
        )
        self._steps = [self._step.labels(kind) for kind in ("decode", "prompt")]
        self._rows = Histogram("moeflux_batch_rows", "Tokens of a step.", buckets=ROWS, registry=of)
        self._reads = Counter(
            "moeflux_expert_reads_total", "Experts asked for.", ["hit"], registry=of
        )
        self._bytes = Counter("moeflux_expert_bytes_total", "Bytes of experts read.", registry=of)
        self._wait = Counter("moeflux_read_wait_seconds_total", "Asleep for reads.", registry=of)
        self._counters = {  # by name in `Model.stats`
            "hits": self._reads.labels("true"), "misses": self._reads.labels("false"),
            "bytes_read": self._bytes, "wait_seconds": self._wait,
        }  # fmt: skip
        self._memory = Gauge("moeflux_memory_bytes", "Of the budget.", ["kind"], registry=of)
        self._memories = [
            self._memory.labels(kind) for kind in ("budget", "live", "sessions", "snapshots")
        ]
        self._snapshots = Gauge("moeflux_snapshots", "Prefixes kept.", ["where"], registry=of)
        self._in_memory = self._snapshots.labels("memory")
        self._disk = Gauge("moeflux_disk_cache_bytes", "Files of kept prompts.", registry=of)
        self._files = Counter(
            "moeflux_disk_cache_files_total", "Files of kept prompts.", ["event"], registry=of
        )
        self._told: dict[str, int] = {}  # of these, so far
        self._info = Info("moeflux", "What is served.", registry=of)

    def describe(self, info: ModelInfo, counts: Callable[[], tuple[int, int]]) -> None:
        """Tells what is served, and who is asked for the choices that run and that wait.

        They are asked at each look: a step takes seconds, and a balancer looks meanwhile.
        """
        self._info.info({"fingerprint": info.fingerprint, "model": info.name})
        self._running.set_function(lambda: counts()[0])
        self._waiting.set_function(lambda: counts()[1])

    def admitted(self, prompt: int, cached: int, queue_s: float, on_disk: bool = False) -> None:
        """A choice was admitted; the disk had what was cached, or memory."""
        self._prompt.labels("computed").inc(prompt - cached)
        self._prompt.labels("disk" if on_disk else "memory").inc(cached)
        self._queue.observe(queue_s)

    def stepped(self, seconds: float, rows: int, generated: int, has_prompt: bool) -> None:
        """A step was computed that chose `generated` tokens."""
        self._generated.inc(generated)
        self._steps[has_prompt].observe(seconds)
        self._rows.observe(rows)

    def finished(self, usage: Usage) -> None:
        """A choice has come to its end."""
        self._ttft.observe(usage.queue_s + usage.prefill_s)
        if usage.generated > 1:
            self._between.observe(usage.decode_s / (usage.generated - 1))

    def load(
        self,
        session_bytes: int,
        free_bytes: int,
        before: Mapping[str, Any],
        stats: Mapping[str, Any],
        cached_bytes: int,
        snapshots: int,
    ) -> None:
        """How things stand, and what came to `Model.stats` since they were `before`."""
        for name, counter in self._counters.items():
            counter.inc(stats[name] - before[name])
        self._usage.set(session_bytes / max(session_bytes + free_bytes, 1))
        held = (stats["memory_bytes"], stats["live_bytes"], session_bytes, cached_bytes)
        for gauge, nbytes in zip(self._memories, held, strict=True):
            gauge.set(nbytes)
        self._in_memory.set(snapshots)

    def on_disk(self, snapshots: int, nbytes: int, counts: Mapping[str, int]) -> None:
        """What the disk has, and what became of files so far."""
        self._snapshots.labels("disk").set(snapshots)
        self._disk.set(nbytes)
        for event in ("read", "written", "damaged", "failed", "refused"):
            count = counts.get(event, 0)
            self._files.labels(event).inc(count - self._told.get(event, 0))
            self._told[event] = count

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        return generate_latest(self.registry)


def _seconds(name: str, what: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, what, buckets=SECONDS, registry=registry)
