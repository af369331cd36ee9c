"""Bytes of a model's budget that choices and snapshots can take."""

from __future__ import annotations

from ..model import Model

STEP = 256  # tokens: a multiple of what sessions grow by, where they grow at all


class Room:
    """What a model has left, and what sessions take of it. The step thread asks.

    Attributes:
        extent_bytes: what a session's first tokens take, and most of what its snapshot copies.
        kept_bytes: that stay for slots while several choices run, so that the experts of one token
            find a place; 0 where not even a single choice leaves them one.
    """

    def __init__(self, model: Model, context: int) -> None:
        self._model = model
        session = model.session()
        ends = [*range(0, context, STEP), context]
        self._bytes = [session.bytes(n) for n in ends]
        self.extent_bytes = self._bytes[1] - self._bytes[0]
        del session
        stats = model.stats
        cycle = sum(top_k for _, top_k in model._native.experts()) * stats["slot_bytes"]
        kept = max(cycle - stats["slots"] * stats["slot_bytes"], 0)  # a load takes the least slots
        self.kept_bytes = kept if kept <= self.free_bytes - self._bytes[-1] else 0

    @property
    def free_bytes(self) -> int:
        """Bytes that are free, or held by slots beyond the least."""
        return self._model.free_bytes

    def bytes(self, n: int) -> int:
        """What a session of n tokens takes between steps; windows take more during a long one."""
        return self._bytes[min(-(-n // STEP), len(self._bytes) - 1)]
