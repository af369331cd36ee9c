"""Which choices run, and how many of their tokens the next pass takes. Pure: no clock, no model.

A pass takes a token of every choice that decodes. Prompts join by share of time: after a pass with
a prompt of t seconds, passes without one run for t * (1 - share) / share seconds, so that answers
go on while prompts are read. Short remainders join always: they cost a pass hardly anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from .costs import Costs, owner_of

MOST_RUNNING = 64  # choices, where no number is given


@dataclass(frozen=True)
class Limits:
    """Of an engine.

    Attributes:
        rows: tokens of a pass at most; more choices than that still get one each.
        wide: tokens of a pass of prompts alone, where that is more: nobody's answer waits for it.
        wide_seconds: that such a pass may take.
        max_running: choices at most; None: as many as keep `min_rate`, 64 at most.
        min_rate: tokens a second that a choice shall have, where `max_running` is None.
        share: of the time, for prompts, while answers are written.
        short: tokens of a remainder that joins whatever the share.
        patience: seconds in the queue after which a choice goes first.
        kept_bytes: free bytes that stay for experts: those of a token, beyond the least slots.
        reserve: of places and of `session_bytes`, for answers that go on: another replica's.
        session_bytes: that sessions can take in all.
    """

    rows: int = 256
    wide: int = 0
    wide_seconds: float = 30.0
    max_running: int | None = None
    min_rate: float = 1.0
    share: float = 0.5
    short: int = 64
    patience: float = 30.0
    kept_bytes: int = 0
    reserve: float = 0.0
    session_bytes: int = 0

    def places(self, goes_on: bool = True) -> int:
        """Choices that may run, for one that goes on or one that begins."""
        places = self.max_running or MOST_RUNNING
        return places if goes_on else max(int(places * (1 - self.reserve)), 1)

    def kept(self, goes_on: bool) -> int:
        """Bytes that stay free of it."""
        return self.kept_bytes + (0 if goes_on else int(self.reserve * self.session_bytes))

    @property
    def most(self) -> int:
        """Tokens of any pass."""
        return max(self.rows, self.wide)


@dataclass(frozen=True)
class Waiting:
    """A choice in the queue.

    Attributes:
        key: of the choice; the order of keys is that of arrival.
        client: whose it is.
        left: tokens that it will compute before its first one.
        nbytes: that its session is going to take.
        waited: seconds.
        ready: False while another choice computes the prompt for it.
        goes_on: its client has some of its answer, and sees a pause.
    """

    key: int
    client: str = ""
    left: int = 1
    nbytes: int = 0
    waited: float = 0.0
    ready: bool = True
    goes_on: bool = False


class Running(NamedTuple):  # 64 a step are made
    """A choice that has a session; `pending` tokens of it are not computed yet.

    Attributes:
        key: of the choice; the order of keys is that of arrival.
        client: whose it is.
        pending: 1 while it decodes.
        most: tokens that it takes in one pass at most, because a checkpoint lies behind them.
        growth: bytes that its session grows by in the next pass.
        expected: bytes that its session still grows by, as far as admission looks ahead.
    """

    key: int
    client: str = ""
    pending: int = 1
    most: int = 1 << 30
    growth: int = 0
    expected: int = 0

    @property
    def promised(self) -> int:
        """Bytes that are not for others."""
        return max(self.growth, self.expected)


@dataclass(frozen=True)
class State:
    """What there is: choices, bytes that sessions can take, bytes of snapshots among the rest, and
    the time in seconds of the clock that `Costs` are told of.
    """  # noqa: D205

    waiting: tuple[Waiting, ...] = ()
    running: tuple[Running, ...] = ()
    free_bytes: int = 1 << 62
    cached_bytes: int = 0
    now: float = 0.0


@dataclass(frozen=True)
class StepPlan:
    """What happens now, in this order.

    Attributes:
        evict: bytes of snapshots that make room.
        preempt: keys of choices that lose their session and go back to the queue.
        admit: keys of choices that get one; they are fed from the next plan on.
        feed: (key, tokens) of the pass.
    """

    evict: int = 0
    preempt: tuple[int, ...] = ()
    admit: tuple[int, ...] = ()
    feed: tuple[tuple[int, int], ...] = field(default=())


def plan(state: State, costs: Costs, limits: Limits) -> StepPlan:
    """The next step."""
    feed, preempt, evict, free = _feed(state, costs, limits)
    admit: list[int] = []
    if not preempt:  # who makes room for others is not who gets it
        admit, evict = _admit(state, costs, limits, free, evict)
    return StepPlan(evict, preempt, tuple(admit), feed)


def _feed(
    state: State, costs: Costs, limits: Limits
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...], int, int]:
    """Feed, preempted keys, bytes to evict, and bytes that nobody is promised, snapshots' too."""
    room = state.free_bytes + state.cached_bytes
    running, preempt = sorted(state.running, key=lambda r: r.key), []
    while len(running) > 1 and sum(r.growth for r in running) > room:
        youngest = running.pop()
        preempt.append(youngest.key)
        room += youngest.growth  # at least: its session goes
    feed = _rows(running, costs, limits, state.now)
    growth = sum(r.growth for r in running)
    evict = max(0, min(growth - state.free_bytes, state.cached_bytes))
    promised = sum(r.promised for r in running)
    return feed, tuple(preempt), evict, state.free_bytes + state.cached_bytes - promised


def _rows(
    running: Iterable[Running], costs: Costs, limits: Limits, now: float
) -> tuple[tuple[int, int], ...]:
    decoding = [r for r in running if r.pending == 1]
    prompts = sorted(
        (r for r in running if r.pending > 1),
        key=lambda r: (*_used(r.client, costs, now), r.pending, r.key),
    )
    feed = [(r.key, 1) for r in decoding]
    rows = limits.rows
    if not decoding:
        rows = costs.prompt_rows(rows, limits.most, limits.wide_seconds)
    left = max(rows - len(feed), min(limits.short, rows))
    may_prefill = not decoding or costs.debt <= 0
    for r in prompts:
        n = min(r.pending, r.most, left)
        if n and (may_prefill or r.pending <= limits.short):
            feed.append((r.key, n))
            left -= n
    return tuple(feed)


def _admit(
    state: State, costs: Costs, limits: Limits, free: int, evict: int
) -> tuple[list[int], int]:
    """Keys in the order of admission, and the bytes to evict for them and for the pass."""
    admitted: list[int] = []
    if not state.waiting:
        return admitted, evict
    clients = Counter(r.client for r in state.running)
    owners = Counter(owner_of(r.client) for r in state.running)
    queue = [w for w in state.waiting if w.ready]
    used = {w.client: _used(w.client, costs, state.now) for w in queue}
    while queue and clients.total() < limits.places():
        best = min(queue, key=lambda w: _order(w, clients, owners, used[w.client], limits))
        if not _has_place(clients.total(), costs, limits, best.goes_on):
            break
        if clients and free - best.nbytes < limits.kept(best.goes_on):
            break  # the first in turn waits for room; no smaller one passes it for ever
        queue.remove(best)
        admitted.append(best.key)
        clients[best.client] += 1
        owners[owner_of(best.client)] += 1
        free -= best.nbytes
    short = limits.kept_bytes + state.cached_bytes - free  # of bytes that are free already
    if admitted:
        evict = max(evict, min(short, state.cached_bytes))
    return admitted, evict


def _order(
    waiting: Waiting, clients: Counter[str], owners: Counter[str], used: tuple[float, float],
    limits: Limits,
) -> tuple[float, ...]:  # fmt: skip
    """Answers that have begun go first. Then owners take turns, and so do the sessions of one;
    anyone can make up a session.
    """  # noqa: D205
    if waiting.goes_on:
        return (-1, waiting.key)
    if waiting.waited >= limits.patience:
        return (0, waiting.key)
    client, (of_owner, of_client) = waiting.client, used
    return (1, owners[owner_of(client)], of_owner, clients[client], of_client, waiting.left,
            waiting.key)  # fmt: skip


def _used(client: str, costs: Costs, now: float) -> tuple[float, float]:
    return costs.used(owner_of(client), now), costs.used(client, now)


def _has_place(running: int, costs: Costs, limits: Limits, goes_on: bool) -> bool:
    if running >= limits.places(goes_on):
        return False
    if limits.max_running is not None or goes_on:
        return True
    return running < 2 or costs.decode_seconds(running + 1) * limits.min_rate <= 1
