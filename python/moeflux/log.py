"""What moeflux tells under the logger `moeflux`: silent until somebody listens.

INFO: loads, budgets, what a generation read. WARNING: what is slower than it was asked to be, or
than it was before. DEBUG: where an error of the command line came from.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from .errors import SessionError
from .terminal import escape_controls

logger = logging.getLogger("moeflux")
logger.addHandler(logging.NullHandler())
lengths = logger.getChild("length")  # the command line shows these without being asked

SLOW_SECONDS = 1.0  # for one expert: a disk that fails, sleeps or is far away
SLOW_SHARE = 0.1  # of the best rate seen; decode alone reads several times slower than prefill
LEAST_BYTES = 16 << 20  # of reads whose rate means something


class Model(Protocol):
    """What is told of a model, and what was already."""

    path: Path
    config: dict[str, Any]
    _positions: int
    _best_read_rate: float

    @property
    def stats(self) -> dict[str, Any]:
        """Counters since load."""

    @property
    def rows(self) -> int:
        """Tokens of a pass, at most."""


class _Escaped(logging.Formatter):
    """Records hold names from checkpoints."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))


def to_stderr(source: logging.Logger = logger) -> None:
    """Shows every record of the source on standard error."""
    lengths.handlers.clear()
    handler = logging.StreamHandler()
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)s %(message)s"))
    source.addHandler(handler)
    source.setLevel(logging.DEBUG)


def loaded(model: Model, memory: str | int, direct_io: bool, seconds: float) -> None:
    """Tells what was loaded, how it computes and what it may hold."""
    stats = model.stats
    logger.info(
        "loaded %s (%s) in %.2f s: %s on %s, instruction set %s", model.path,
        model.config["model_type"], seconds, stats["precision"], stats["device_name"],
        stats["simd"],
    )  # fmt: skip
    more = (stats["memory_bytes"] - stats["live_bytes"]) // max(stats["slot_bytes"], 1)
    logger.info(
        "memory: asked for %s, may take %d bytes, took %d; room for %d of %d experts; passes of "
        "%d tokens", memory, stats["memory_bytes"], stats["live_bytes"],
        min(stats["slots"] + more, stats["max_slots"]), stats["max_slots"], model.rows,
    )  # fmt: skip
    if direct_io and stats["read_mode"] != "direct":
        logger.warning("no direct reads here: they go through the page cache (%s)", model.path)


def length(model: Model, tokens: int) -> None:
    """Warns, once a model, when a text is longer than the model was made for."""
    if 0 < model._positions < tokens:
        lengths.warning("a text of %d tokens: the model was made for %d, what it says beyond them "
                        "may be poor (%s)", tokens, model._positions, model.path)  # fmt: skip
        model._positions = 0


def context(model: Model, tokens: int) -> None:
    """Warns of a context that is longer than the texts that the model was made for."""
    if 0 < model._positions < tokens:
        logger.warning("a context of %d tokens: the model was made for %d (%s)", tokens,
                       model._positions, model.path)  # fmt: skip


@contextlib.contextmanager
def reads_of(model: Model) -> Iterator[None]:
    """Tells at its end what was read meanwhile, and warns of slow reads."""
    before = model.stats
    try:
        yield
    finally:
        names = ("tokens", "misses", "ahead_reads", "ahead_used", "bytes_read", "reading_seconds",
                 "wait_seconds")  # fmt: skip
        with contextlib.suppress(SessionError):  # the model was closed meanwhile
            after = model.stats
            _read(model, {name: after[name] - before[name] for name in names})


def _read(model: Model, read: dict[str, Any]) -> None:
    nbytes, seconds = read["bytes_read"], read["reading_seconds"]
    experts = read["misses"] + read["ahead_reads"] - read["ahead_used"]
    if not experts or not seconds:
        return
    rate, best = nbytes / seconds, model._best_read_rate
    logger.info(
        "%d tokens took %d experts from disk: %.0f MB at %.3f GB/s, %.2f s waited for them",
        read["tokens"], experts, nbytes / 1e6, rate / 1e9, read["wait_seconds"],
    )  # fmt: skip
    if seconds > experts * SLOW_SECONDS:  # so one of them took as long at least
        logger.warning("slow reads: %.1f s for an expert (%s)", seconds / experts, model.path)
    elif nbytes >= LEAST_BYTES and rate < SLOW_SHARE * best:
        logger.warning("slow reads: %.3f GB/s, once %.3f GB/s (%s)", rate / 1e9, best / 1e9,
                       model.path)  # fmt: skip
    if nbytes >= LEAST_BYTES:
        model._best_read_rate = max(best, rate)
