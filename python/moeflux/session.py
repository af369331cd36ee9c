"""`Session`: one sequence of a model, and how requests of one or many of them reach the engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .errors import SessionError

CAPTURES = ("router", "experts", "hidden")


def token_ids(tokens: Iterable[int]) -> NDArray[np.uint32]:
    """Token ids as the engine takes them. Raises SessionError for what is no list of ids."""
    ids = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens))
    if ids.size and (not np.issubdtype(ids.dtype, np.integer) or ids.ndim != 1):
        raise SessionError(f"[session] expected token ids, found {ids.dtype} {ids.shape}")
    if ids.size and not (ids.min() >= 0 and ids.max() < 2**32):
        raise SessionError(f"[session] expected token ids, found {ids.min()}..{ids.max()}")
    return ids.astype(np.uint32)


def run(
    model: _core.NativeModel,
    batch: Iterable[tuple[Session, Iterable[int]]],
    all_logits: bool,
    capture: Iterable[str] | None,
) -> list[Any]:
    """Steps the sessions of a batch together; see `Model.step_batch`."""
    names = sorted({capture} if isinstance(capture, str) else set(capture or ()))
    for name in names:
        if name not in CAPTURES:
            raise SessionError(f"[session] capture: expected {CAPTURES}, found {name!r}")
    items = []
    for session, tokens in batch:
        if not isinstance(session, Session):
            raise SessionError(f"[session] expected a Session, found {type(session).__name__}")
        items.append((session._native, token_ids(tokens)))
    found = model.step_batch(items, all_logits, names)
    return found if names else [out["logits"] for out in found]


class Session:
    """One sequence: its KV cache and recurrent state."""

    def __init__(self, native: _core.NativeSession) -> None:
        self._native = native

    @property
    def position(self) -> int:
        """Tokens held so far."""
        return self._native.position

    @property
    def context(self) -> int:
        """Tokens it can hold."""
        return self._native.context

    def step(
        self,
        tokens: Iterable[int],
        *,
        all_logits: bool = False,
        capture: Iterable[str] | None = None,
    ) -> Any:
        """Appends tokens and computes. It happens whole or not at all: after an error or an
        interrupt the session is as it was.

        Args:
            tokens: one or more token ids.
            all_logits: logits after every token, not the last alone.
            capture: any of "router", "experts", "hidden".

        Returns:
            Logits, float32 (vocab,) or (n, vocab); with `capture` a dict of arrays: "logits";
            "experts" int32 (n, layers, top_k) ascending, -1 in dense layers, and
            "expert_weights"; "router" float32 (n, layers, experts), logits before softmax;
            "hidden" float32 (n, layers + 1, d_model), embedding first.

        Raises:
            SessionError: no tokens, ids out of range, or past the context.
            IoError: an expert could not be read.
        """  # noqa: D205
        return run(self._native.model, [(self, tokens)], all_logits, capture)[0]

    def reset(self) -> None:
        """Forgets everything."""
        self._native.reset()

    def save(self) -> _core.Snapshot:
        """A copy of the state, in memory, within the budget."""
        return self._native.save()

    def restore(self, snapshot: _core.Snapshot) -> None:
        """Returns to a saved state; the only way back, since recurrent state has no history."""
        self._native.restore(snapshot)
