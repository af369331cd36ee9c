"""`Ahead`: tokens that a session has computed on a guess and that nobody has chosen yet.

On the CPU a row of a step has the bits that it has alone, so logits after a guess that comes true
are those of a step by itself. A wrong guess is taken back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import Protocol

    from . import _core

    class _Guessing(Protocol):
        """A `Session`."""

        _native: _core.NativeSession
        _routing_native: _core.NativeRouting | None
        _logits: NDArray[np.float32] | None
        _ahead: Ahead | None


class Ahead:
    """A step of a session over a token and a guess of those after it.

    Args:
        begin: tokens that the session held before.
        tokens: that were stepped; the first is no guess.
        rows: logits after each of them, float32 (n, vocab).
        before: the session's state before; None where it can be cut.
    """

    def __init__(
        self,
        begin: int,
        tokens: list[int],
        rows: NDArray[np.float32],
        before: _core.NativeSnapshot | None,
    ) -> None:
        self._begin, self._tokens, self._rows, self._before = begin, tokens, rows, before
        self.n_true = 1

    @property
    def position(self) -> int:
        """Tokens that the session holds, as far as they were chosen."""
        return self._begin + self.n_true

    @property
    def logits(self) -> NDArray[np.float32]:
        """After the last of these."""
        row: NDArray[np.float32] = self._rows[self.n_true - 1]
        return row

    def takes(self, token: int) -> bool:
        """Whether the token that was chosen is the guessed one."""
        if self.n_true == len(self._tokens) or self._tokens[self.n_true] != token:
            return False
        self.n_true += 1
        return True

    def end(self, session: _Guessing) -> None:
        """Brings the session to hold what was chosen; it is as now where that fails.

        Raises:
            IoError, Interrupted: a step that is repeated after recurrent state was taken back.
            MemoryBudgetError: it finds no room.
        """
        native = session._native
        if self.n_true < len(self._tokens):
            if self._before is None:
                native.truncate(self.position)
            else:
                native.restore(self._before)
                items = step_items(session, self._tokens[: self.n_true])
                native.model.step_batch(items, "none", [])
        session._logits, session._ahead = np.array(self.logits), None


def step_items(session: _Guessing, tokens: list[int]) -> list[Any]:
    """What the engine is asked for a step of one session under its own routing."""
    return [(session._native, np.array(tokens, np.uint32), session._routing_native, 0)]
