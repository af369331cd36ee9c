"""Drafts: guesses of what follows, so that several tokens share a pass. The text is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from . import _core
from .ahead import Ahead, step_items
from .errors import Interrupted, MoefluxError, SessionError
from .session import NOTHING, Session
from .stepping import stepped

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


@dataclass
class Cost:
    """What a token took of late: seconds, without those asleep for reads, and bytes not in memory.

    Bytes are exact, and what a disk takes for them is not: waits are reckoned from bytes, at the
    rate of all steps so far.
    """

    seconds: float = 0.0
    nbytes: float = 0.0
    n: int = 0

    def see(self, seconds: float, nbytes: float) -> None:
        """A new measurement."""
        weight = NEW if self.n else 1.0
        self.seconds += weight * (seconds - self.seconds)
        self.nbytes += weight * (nbytes - self.nbytes)
        self.n += 1


class Draft:
    """The guesses of one generation, and whether they pay: by what a token takes, with and without.

    A guess has more rows than come true. What those compute, and the experts that they alone are
    read for, are divided among the tokens that do.

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
        self._plain, self._drafted = Cost(), Cost()
        self._waited = self._missed = 0.0  # seconds asleep for reads, bytes read, by all steps
        self._n_passed = 0
        self._length = MOST  # of the next guess: twice as much as was right of the last
        self._open: Ahead | None = None  # the last guess, until it is judged
        self._seconds = self._nbytes = 0.0  # that it took
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
        if position == session._native.position - 1:  # the token was stepped
            self._plain.see(*self._took(session, begin))
        return found

    def _took(self, session: Session, begin: float) -> tuple[float, float]:
        """Seconds without waits, and bytes read, of the step that has just been."""
        seconds, step = time.perf_counter() - begin, session.last_step
        self._waited += step["wait_seconds"]
        self._missed += step["bytes_read"]
        return seconds - step["wait_seconds"], step["bytes_read"]

    def _guess(self, most: int) -> list[int]:
        if most < 1 or not self._pays():
            return []
        guess = self._drafter.guess()[: min(most, self._length)]
        wrong = (i for i, token in enumerate(guess) if not 0 <= token < self._vocab)
        return guess[: next(wrong, len(guess))]

    def _pays(self) -> bool:
        if not self._plain.n:
            return False
        if self._drafted.n < TRIALS or self._takes(self._drafted) <= self._takes(self._plain):
            return True
        self._n_passed = (self._n_passed + 1) % AGAIN
        return self._n_passed == 0

    def _takes(self, cost: Cost) -> float:
        """Seconds a token."""
        return cost.seconds + cost.nbytes * self._waited / max(self._missed, 1)

    def _step(self, session: Session, tokens: list[int], aborts_before: int) -> bool:
        """Steps a guess, too. False: that failed, with nothing changed, and one token may not."""
        native, begin = session._native, time.perf_counter()
        at, before = native.position, None
        try:
            before = native.save() if native.taken_back < len(tokens) else None
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
        self._seconds, self._nbytes = self._took(session, begin)
        return True

    def _judge(self) -> None:
        """A guess that is over: what a token of it took."""
        if self._open is not None:
            n = self._open.n_true
            self._drafted.see(self._seconds / n, self._nbytes / n)
            self._length = min(2 * self._open.n_true, MOST)
            self._open = None
