"""`Session`: one sequence of a model."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core, elastic
from .ahead import Ahead
from .arguments import check, integer, token_ids
from .errors import SessionError
from .identity import Identity
from .routing import Routing, compile_routing
from .snapshot import Snapshot
from .stepping import RULES, blaming, capture_names, stepped

NOTHING = (-1, 0)  # shown, and not waiting


class Closed:
    """What a closed model, and its sessions, have in place of the native object."""

    def __getattr__(self, name: str) -> Any:
        raise SessionError("[model] expected an open model, found one that was closed")


class Session:
    """One sequence: its KV cache and recurrent state.

    The cache grows by 256 positions at a time, and takes memory as it does.
    """

    def __init__(
        self,
        model: _core.NativeModel,
        identity: Identity,
        routing: Routing | None = None,
        siblings: weakref.WeakSet[Session] | None = None,
    ) -> None:
        self._siblings = weakref.WeakSet() if siblings is None else siblings  # to be closed at once
        self._siblings.add(self)
        self._identity = identity
        self._routing = routing
        self._routing_native = compile_routing(model, routing, and_session=True)
        self._override = routing.name if routing else None  # that had a part in the state
        self._native = model.session()
        # What a generation showed last, as (position, token): computed before whatever comes next,
        # and no longer waiting once the engine has passed the position.
        self._shown = NOTHING
        self._logits: NDArray[np.float32] | None = None  # of the last step, when that came last
        self._ahead: Ahead | None = None  # what was stepped on a guess and is not shown yet
        self._last_step: dict[str, Any] = {}

    def __repr__(self) -> str:
        try:
            return (
                f"<Session at {self.position} of {self.context}, {self.stats['routing']} routing>"
            )
        except SessionError:
            return "<Session of a model that was closed>"

    @property
    def position(self) -> int:
        """Tokens held so far. Any thread may ask, also while another one steps."""
        native, ahead = self._native.position, self._ahead
        position = native if ahead is None else ahead.position
        return position + (self._shown[0] == native)

    @property
    def context(self) -> int:
        """Tokens it can hold."""
        return self._native.context

    def bytes(self, n: int) -> int:
        """What a session of this model takes of the budget when it holds n tokens.

        Args:
            n: 0 to `context`.

        Returns:
            Bytes: its recurrent state and tables, and the KV cache of n positions, rounded up to
            what it grows by; with windows at most, and more while a long step runs.

        Raises:
            SessionError: n is out of its range.

        Example:
            >>> session = load(memory="24MiB", context=512).session()
            >>> session.bytes(1) == session.bytes(256) < session.bytes(257) == session.bytes(512)
            True
        """
        check("session", SessionError, {"n": integer(0, self.context)}, {"n": n})
        return self._native.bytes(n)

    @property
    def truncatable(self) -> bool:
        """Whether `truncate` can go back to any token.

        Recurrent state (gated delta nets) has no past; a KV cache has what no window has passed.
        """
        return self._native.taken_back == self.context

    @property
    def truncatable_to(self) -> int:
        """The fewest tokens, beside none, that `truncate` can go back to now.

        0 where it is `truncatable`, `position` with recurrent state. Sliding windows go back as far
        as they are held: by the last 64 tokens stepped since it was empty, restored or forked.
        """
        return min(self._native.least_tokens(), self.position)

    @property
    def routing(self) -> Routing | None:
        """The override that this session computes under; None: the model's own routing."""
        return self._routing

    @property
    def stats(self) -> dict[str, Any]:
        """position, context, and routing: "native", or the name of the session's override."""
        name = self._routing.name if self._routing else "native"
        return {"position": self.position, "context": self.context, "routing": name}

    @property
    def last_step(self) -> dict[str, Any]:
        """What the last step of this session took, all sessions of its batch together.

        hits and misses (experts found in memory, and not), bytes_read (of experts, on a guess, too)
        and wait_seconds (asleep for reads, with nothing to compute meanwhile); empty before the
        first step. The totals are in `Model.stats`.

        Example:
            >>> session = load(memory="24MiB", context=512).session()
            >>> _ = session.step([1, 2, 3])
            >>> session.last_step["misses"] > 0
            True
        """
        return dict(self._last_step)

    def step(
        self,
        tokens: Iterable[int],
        *,
        all_logits: bool = False,
        capture: Iterable[str] | None = None,
        routing: Routing | None = None,
    ) -> Any:
        """Appends tokens and computes. It happens whole or not at all: after an error or an
        interrupt the session is as it was.

        Args:
            tokens: one or more token ids.
            all_logits: logits after every token, not the last alone.
            capture: any of "router", "experts", "hidden". Captured arrays are outside the
                memory budget, as logits are.
            routing: an override for these tokens alone, in place of the session's; a forced array
                counts from the first of them (the session's from position 0).

        Returns:
            Logits, float32 (vocab,) or (n, vocab); with `capture` a dict of arrays: "logits";
            "experts" int32 (n, layers, top_k) ascending, -1 in dense layers, and
            "expert_weights" float32 of the same shape; "router" float32 (n, layers, experts),
            logits before softmax, NaN in dense layers; "hidden" float32 (n, layers + 1, d_model),
            the residual stream: embedding first, then after each layer.

        Raises:
            SessionError: no tokens, ids out of range, past the context, or an override that the
                model cannot follow.
            MemoryBudgetError: the KV cache finds no room to grow.
            IoError: an expert could not be read.
            Interrupted: `Model.abort` was called.
        """  # noqa: D205
        check("session", SessionError, RULES, {"all_logits": all_logits, "routing": routing})
        names = capture_names(capture)
        item, logits = self._item(tokens, routing), "all" if all_logits else "last"
        found = stepped(self._native.model, [self], [item], logits, names)[0]
        self._remember(found["logits"])
        return found if names else found["logits"]

    def score(
        self,
        tokens: Iterable[int],
        *,
        greedy: bool = False,
        top: int | None = None,
        following: int | None = None,
        routing: Routing | None = None,
    ) -> Any:
        """Appends tokens and tells how probable the model found them.

        A text of any length up to the context takes the memory of a step: logits of some rows at a
        time, never of all. Like `step` it happens whole or not at all.

        Args:
            tokens: one or more token ids.
            greedy: also tell which tokens were the most probable ones.
            top: also tell the so many most probable tokens in each place, the vocabulary at most.
            following: a token that would come next, and is not appended: it is scored, too, as the
                n + 1st of them. So a text can be scored in pieces.
            routing: as in `step`.

        Returns:
            float32 (n,): natural log of the probability of each token after all before it. The
            first is NaN: what it came after was an earlier call's. To score an answer after a
            prompt, leave the prompt's last token to this call. With `greedy` a tuple: that, and
            bool (n,), False at the first. With `top` two more: their ids, uint32 (n, top), best
            first and of equals the lower id first, and their logprobs, float32 (n, top). These are
            computed as those of the tokens: a token that is among them has the same float. The
            first row is 0 and NaN.

        Raises:
            SessionError, MemoryBudgetError, IoError, Interrupted: as `step`.

        Example:
            >>> model = load(memory="24MiB", context=512)
            >>> logprobs = model.session().score(model.tokenizer.encode("import os"))
            >>> bool(np.isnan(logprobs[0])), bool((logprobs[1:] < 0).all())
            (True, True)
        """
        check("session", SessionError, RULES, locals())
        n_top = min(int(top or 0), 2**32 - 1)
        model, item = self._native.model, self._item(tokens, routing)
        with blaming([self]):
            found = elastic.step(model, lambda: model.score(item, n_top, following))
        logprobs, best, ids, values, self._last_step = found
        self._logits = None
        if not greedy and top is None:
            return logprobs
        return (logprobs, *((best,) if greedy else ()), *((ids, values) if top is not None else ()))

    def reset(self) -> None:
        """Forgets everything, and gives the KV cache's memory back."""
        self._native.reset()
        self._shown, self._logits, self._ahead = NOTHING, None, None

    def fork(self) -> Session:
        """Another session that holds the same and goes its own way.

        Full extents of the KV cache are shared (`save`), so that a fork takes as long and as much
        memory after many tokens as after few: recurrent state and one extent at most.

        Returns:
            A Session with the same override of the routing.

        Raises:
            MemoryBudgetError: it finds no room.

        Example:
            >>> session = load(memory="24MiB", context=512).session()
            >>> _ = session.step([1, 2, 3])
            >>> other = session.fork()
            >>> bool((other.step([4]) == session.step([4])).all())
            True
        """
        self._go_on([])
        other = copy.copy(self)
        other._native = self._native.fork()
        self._siblings.add(other)
        return other

    def truncate(self, n: int) -> None:
        """Forgets all but the first n tokens.

        Args:
            n: 0 to `position`.

        Raises:
            SessionError: n is out of its range, or neither 0 nor `truncatable_to` or more: take
                `save` and `restore` there.
            MemoryBudgetError: what is left of a shared extent finds no room.
        """
        check("session", SessionError, {"n": integer(0, self.position)}, {"n": n})
        if n == self.position:
            return
        if n == 0:
            return self.reset()
        self._settle()
        self._native.truncate(n)
        self._shown, self._logits = NOTHING, None

    def save(self) -> Snapshot:
        """The state, kept in memory and within the budget.

        Extents of the KV cache that are full (256 positions) are not copied: the snapshot and the
        session hold the same ones, for as long as one of them lives. The rest is copied: recurrent
        state, and what is in the last extent. That is `Snapshot.nbytes`.

        Raises:
            MemoryBudgetError: the copy finds no room.
        """
        self._go_on([])
        return Snapshot(self._native.save(), self._identity, routing=self._override)

    def restore(self, snapshot: Snapshot) -> None:
        """Returns to a saved state; the only way back beyond `truncatable_to`.

        Raises:
            SessionError: the snapshot is another model's.
            MemoryBudgetError: the last extent of the KV cache finds no room. The session is as it
                was. A session that has gone on since `save` has that extent already,
                unless a later snapshot shares it.
        """
        check("session", SessionError, RULES, {"snapshot": snapshot})
        self._native.restore(snapshot._native)
        self._shown, self._logits, self._ahead = NOTHING, None, None
        self._override = self._routing.name if self._routing else snapshot._routing

    def _item(self, tokens: Iterable[int], routing: Routing | None = None) -> tuple[Any, ...]:
        """What the engine takes, once the session has computed all that it holds."""
        ids = token_ids(tokens)
        compiled = self._routing_native
        if routing is not None:
            compiled, self._override = compile_routing(self._native.model, routing), routing.name
        elif not self.position and self._routing is None:
            self._override = None
        self._go_on([])
        return self._native, ids, compiled, 0 if routing is None else self.position

    def _step(
        self, tokens: Iterable[int], names: list[str], aborts_before: int | None = None
    ) -> dict[str, Any]:
        """As `step` under the session's own routing, where `abort` may have been called before."""
        return self._computed(self._item(tokens), names, aborts_before)

    def _computed(
        self, item: tuple[Any, ...], names: list[str], aborts_before: int | None
    ) -> dict[str, Any]:
        found = stepped(self._native.model, [self], [item], "last", names, aborts_before)[0]
        self._logits = found["logits"]
        if names:  # what was captured is shown
            self._remember(found["logits"])
        return found

    def _remember(self, logits: NDArray[np.float32]) -> None:
        self._logits = np.array(logits[-1] if logits.ndim == 2 else logits)  # a copy

    def _show(self, token: int) -> None:
        if self._ahead is not None and self._ahead.takes(token):
            return
        self._settle()
        self._shown = self._native.position, token

    def _settle(self) -> None:
        """Gives up what was stepped on a guess and has not been shown."""
        if self._ahead is not None:
            self._ahead.end(self)

    def _go_on(self, names: list[str], aborts_before: int | None = None) -> dict[str, Any]:
        """The step of the token shown last, or the logits of the last step when none waits."""
        self._settle()
        position, token = self._shown
        if position != self._native.position:
            return {"logits": self._logits}
        item = self._native, token_ids([token]), self._routing_native, 0
        return self._computed(item, names, aborts_before)
