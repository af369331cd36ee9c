"""Drafts: guesses of what follows, so that several tokens share a pass. The text is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from . import _core
from .ahead import Ahead, step_items
from .errors import Interrupted, MoefluxError, SessionError
from .session import NOTHING, Session, stepped

MOST = 8  # tokens of a guess
NEW = 0.25  # weight of a new measurement
TRIALS = 3  # guesses before they are judged
AGAIN = 64  # tokens after which guesses that did not pay are tried once more


class Drafter(Protocol):
    """Guesses tokens."""

    def add(self, token: int) -> None:
        """Another token of the text."""

    def guess(self) -> list[int]:
        """Those that may follow; none where there is no guess."""


class Ngram:
    """Guesses that what followed the last tokens before follows them again."""

    SIZES = (4, 3, 2)

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # of runs of tokens, where they were last

    def add(self, token: int) -> None:
        """Another token of the text."""
        for size in self.SIZES:  # the runs before it: the last one shall find an earlier place
            if len(self._tokens) >= size:
                self._ends[tuple(self._tokens[-size:])] = len(self._tokens)
        self._tokens.append(token)

    def guess(self) -> list[int]:
        """What followed the longest run that the text ends with."""
        for size in self.SIZES:
            end = self._ends.get(tuple(self._tokens[-size:]))
            if end is not None and len(self._tokens) >= size:
                return self._tokens[end : end + MOST]
        return []


DRAFTERS: dict[str, Callable[[], Drafter]] = {"ngram": Ngram}


class Draft:
    """The guesses of one generation, and whether they pay: by seconds a token, with and without.

    Args:
        name: of the drafter.
        model: that must compute on the CPU.
        tokens: of the text so far.

    Raises:
        SessionError: the model is on a device, whose rows differ within a tolerance.
    """

    def __init__(self, name: str, model: _core.NativeModel, tokens: list[int]) -> None:
        if (device := model.stats()["device"]) != "cpu":
            raise SessionError(f"[generate] draft: expected a model on the CPU, where a draft "
                               f"changes no bit, found one on {device}")  # fmt: skip
        self._drafter = DRAFTERS[name]()
        self._vocab = model.snapshot_form(0)["vocab"]
        self._plain = self._drafted = 0.0  # seconds a token, of late
        self._n_plain = self._n_drafts = self._n_passed = 0
        self._length = MOST  # of the next guess: twice as much as was right of the last
        self._open: Ahead | None = None  # the last guess, until it is judged
        self._seconds = 0.0  # that it took
        for token in tokens:
            self._drafter.add(token)

    def show(self, session: Session, token: int) -> None:
        """A token was chosen and is shown. Raises as `Ahead.end`."""
        begin = time.perf_counter()
        session._show(token)
        self._seconds += time.perf_counter() - begin
        self._drafter.add(token)

    def next(self, session: Session, aborts_before: int, most: int) -> dict[str, Any]:
        """Logits for the next choice.

        Args:
            session: that the text is written in.
            aborts_before: as in a step.
            most: tokens that are still wanted.

        Raises:
            SessionError, IoError, Interrupted, MemoryBudgetError: as a step.
        """
        if session._ahead is not None:  # the guess has come true so far
            return {"logits": session._ahead.logits}
        self._judge()
        position, token = session._shown
        if position == session._native.position:
            guess = self._guess(min(most - 1, session.context - session.position))
            if guess and self._step(session, [token, *guess], aborts_before):
                assert session._ahead is not None
                return {"logits": session._ahead.logits}
        begin = time.perf_counter()
        found = session._go_on([], aborts_before)
        self._plain = _mean(self._plain, self._n_plain, time.perf_counter() - begin)
        self._n_plain += 1
        return found

    def _guess(self, most: int) -> list[int]:
        if most < 1 or not self._pays():
            return []
        guess = self._drafter.guess()[: min(most, self._length)]
        wrong = (i for i, token in enumerate(guess) if not 0 <= token < self._vocab)
        return guess[: next(wrong, len(guess))]

    def _pays(self) -> bool:
        if not self._n_plain:
            return False
        if self._n_drafts < TRIALS or self._drafted <= self._plain:
            return True
        self._n_passed = (self._n_passed + 1) % AGAIN
        return self._n_passed == 0

    def _step(self, session: Session, tokens: list[int], aborts_before: int) -> bool:
        """Steps a guess, too. False: that failed, with nothing changed, and one token may not."""
        native, begin = session._native, time.perf_counter()
        at, before = native.position, None
        try:
            before = None if native.truncatable else native.save()
            items = step_items(session, tokens)
            rows = stepped(native.model, [session], items, "all", [], aborts_before)[0]["logits"]
            session._ahead = self._open = Ahead(at, tokens, rows, before)
        except Interrupted:
            raise
        except MoefluxError:
            return False
        except BaseException:  # Ctrl-C, after the step and before anyone knows of it
            if session._ahead is None and native.position > at:
                native.truncate(at) if before is None else native.restore(before)
            raise
        session._logits, session._shown = rows[0], NOTHING
        self._seconds = time.perf_counter() - begin
        return True

    def _judge(self) -> None:
        """A guess that is over: what a token of it took."""
        if self._open is not None:
            took = self._seconds / self._open.n_true
            self._drafted = _mean(self._drafted, self._n_drafts, took)
            self._n_drafts += 1
            self._length = min(2 * self._open.n_true, MOST)
            self._open = None


def _mean(mean: float, n: int, value: float) -> float:
    return value if n == 0 else mean + NEW * (value - mean)
