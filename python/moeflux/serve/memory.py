"""Bytes of a model's budget that choices and snapshots can take."""

from __future__ import annotations

from ..model import Model


class Room:
    """What a model has left. The step thread asks.

    Attributes:
        kept_bytes: that stay for slots while several choices run, so that the experts of one token
            find a place; 0 where not even a single choice leaves them one.
    """

    def __init__(self, model: Model, context: int) -> None:
        self._model = model
        stats = model.stats
        self._least = stats["slots"] * stats["slot_bytes"]
        before = self._other_bytes()
        session = model.session()
        self._session_bytes = self._other_bytes() - before
        del session
        cycle = sum(top_k for _, top_k in model._native.experts()) * stats["slot_bytes"]
        kept = max(cycle - self._least, 0)
        self.kept_bytes = kept if kept <= self.free_bytes - self.bytes(context) else 0

    @property
    def free_bytes(self) -> int:
        """Bytes that are free, or held by slots beyond the least."""
        return int(self._model.stats["memory_bytes"] - self._other_bytes() - self._least)

    def bytes(self, n: int) -> int:
        """What a session of n tokens takes."""
        return self._session_bytes

    def _other_bytes(self) -> int:
        stats = self._model.stats
        return int(stats["live_bytes"] - stats["slots"] * stats["slot_bytes"])
