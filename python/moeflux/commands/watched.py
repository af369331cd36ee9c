"""What a running server tells of itself, and what follows from two looks at it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, IoError, SessionError
from ..launch.server import fetch

Labels = frozenset[tuple[str, str]]
MEMORY = ("budget", "live", "sessions", "snapshots")
MOST_SLOTS = 4096
RATES = (
    *("tokens_per_second", "prompt_tokens_per_second", "read_bytes_per_second"),
    *("hit_rate", "waiting_share"),
)


@dataclass(frozen=True)
class Look:
    """A server at a moment.

    Attributes:
        when: seconds of a clock that only goes forward.
        values: of `/metrics`, by name and labels.
        info: labels of `moeflux_info`.
        slots: of `/slots`.
        health: its state in a word.
    """

    when: float
    values: Mapping[tuple[str, Labels], float]
    info: Mapping[str, str]
    slots: list[dict[str, Any]]
    health: str

    def value(self, name: str, **labels: str) -> float:
        """Of a metric; 0 where the server has none of it."""
        return self.values.get((name, frozenset(labels.items())), 0.0)


def look(url: str, key: str) -> Look:
    """Asks a server.

    Args:
        url: of the server, without a path.
        key: that it wants, or "".

    Raises:
        IoError: no answer came in time.
        SessionError: it wants another key.
        FormatError: it is no server of ours.
    """
    when = time.monotonic()
    text = _got(url, "/metrics", key)
    values, info = _parsed(text, url)
    slots, health = _json(url, "/slots", key), _json(url, "/health", key, any_status=True)
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        raise _other(url)
    state = health.get("status") if isinstance(health, dict) else None
    return Look(when, values, info, slots[:MOST_SLOTS], str(state or "?")[:40])


def _got(url: str, path: str, key: str, any_status: bool = False) -> bytes:
    status, said = fetch(url + path, key)
    if not status:
        raise IoError(f"[top] expected a server at {url}, found none")
    if status in (401, 403):
        raise SessionError(f"[top] {url} wants a key: --api-key, or MOEFLUX_API_KEY")
    if status != 200 and not any_status:
        raise _other(url)
    return said


def _json(url: str, path: str, key: str, any_status: bool = False) -> Any:
    try:
        return json.loads(_got(url, path, key, any_status))
    except (ValueError, RecursionError):
        raise _other(url) from None


def _other(url: str) -> FormatError:
    return FormatError(f"[top] expected the server of moeflux serve, found another ({url})")


def _parsed(text: bytes, url: str) -> tuple[dict[tuple[str, Labels], float], dict[str, str]]:
    from prometheus_client.parser import text_string_to_metric_families

    values, info = {}, None
    try:
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                if sample.name == "moeflux_info":
                    info = {name: str(value)[:200] for name, value in sample.labels.items()}
                elif math.isfinite(sample.value):
                    values[sample.name, frozenset(sample.labels.items())] = float(sample.value)
    except Exception:  # its parser raises many kinds for what is none of its format
        raise _other(url) from None
    if info is None:
        raise _other(url)
    return values, info


def facts(before: Look, after: Look) -> dict[str, Any]:
    """What a person wants to know. Rates are those between two looks; null where there are none.

    A server that was started again between them has none.
    """
    return {
        "model": after.info.get("model"),
        "fingerprint": after.info.get("fingerprint"),
        "health": after.health,
        "seconds": after.when - before.when,
        **_rates(before, after),
        "memory_bytes": {
            kind: int(after.value("moeflux_memory_bytes", kind=kind)) for kind in MEMORY
        },
        "running": int(after.value("moeflux_requests_running")),
        "waiting": int(after.value("moeflux_requests_waiting")),
        "generated_tokens": int(after.value("moeflux_generated_tokens_total")),
        "slots": [bool(slot.get("is_processing")) for slot in after.slots],
    }


def _rates(before: Look, after: Look) -> dict[str, float | None]:
    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    seconds = after.when - before.when
    made = grown("moeflux_generated_tokens_total")
    fed = grown("moeflux_prompt_tokens_total", source="computed")
    nbytes = grown("moeflux_expert_bytes_total")
    hits = grown("moeflux_expert_reads_total", hit="true")
    misses = grown("moeflux_expert_reads_total", hit="false")
    waited = grown("moeflux_read_wait_seconds_total")
    if seconds <= 0 or min(made, fed, nbytes, hits, misses, waited) < 0:
        return dict.fromkeys(RATES)
    found = (made / seconds, fed / seconds, nbytes / seconds,
             hits / (hits + misses) if hits + misses else None,
             min(waited / seconds, 1.0))  # fmt: skip
    return dict(zip(RATES, found, strict=True))
