"""The step loop: one thread a model, the only caller of the model after its load.

A turn of the loop: new and cancelled jobs, a plan (scheduler.py), what the plan says of memory, one
step of the model, and what the step brought (sequence.py), sent in one call to the event loop.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from ..errors import MemoryBudgetError, MoefluxError
from ..log import logger
from ..model import Model
from ..sampling import Choice
from .costs import Costs
from .disk_cache import DiskCache
from .engine import Delta, Usage
from .faults import SetBack
from .memory import Room
from .metrics import Metrics
from .outbox import Outbox
from .prefix_cache import PrefixCache
from .prefixes import Prefixes
from .scheduler import Limits, Running, State, StepPlan, Waiting, plan
from .sequence import Sequence
from .steps import Feed, Steps
from .ticket import Ticket

AHEAD = 256  # tokens of an answer that admission sees room for
TOGETHER = 0.01  # seconds that a prompt waits for others, where nobody runs: one sweep serves all
REST = 0.05  # seconds at most, where what is awaited comes from a disk
LOOK = 0.05  # seconds between looks at the model's counters, while answers are written


class StepLoop:
    """Runs the choices of all jobs.

    Args:
        model: whose sessions step.
        limits: of the scheduler.
        cache: of snapshots.
        room: of the model's budget.
        metrics: that are told of steps.
        disk: of snapshots in files; None: there is none.

    Attributes:
        prefixes: what is remembered of prompts.
    """

    def __init__(
        self, model: Model, limits: Limits, cache: PrefixCache, room: Room, metrics: Metrics,
        disk: DiskCache | None = None,
    ) -> None:  # fmt: skip
        self._model, self._limits = model, limits
        self._room, self._metrics = room, metrics
        self._costs = Costs(limits.share)
        self._inbox: deque[Ticket] = deque()
        self._wake = threading.Event()
        self.prefixes = Prefixes(cache, room, disk, self._wake.set)
        self._tickets: dict[int, Ticket] = {}  # by key of their choices
        self._waiting: dict[int, Sequence] = {}
        self._running: dict[int, Sequence] = {}
        self._held = 0  # bytes of the sessions that run, as of the last plan
        self._stepping: tuple[Ticket, ...] = ()  # jobs of the step in progress
        self._outbox = Outbox()
        self._steps = Steps(model, self._fail, self._make_room)
        self._set_back = SetBack()
        self._stopped = False
        self._over = False  # the thread takes no more jobs
        self._ending = threading.Lock()
        self._moving = threading.Lock()  # from the inbox: who waits is counted once
        self.failure: BaseException | None = None  # that ended the thread
        self.stats: Mapping[str, Any] = model.stats  # as of the last look
        self._look_at = 0.0  # of the clock: the next look; 0 is after this step
        self._thread = threading.Thread(target=self._run, name="moeflux-step", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Takes a job, from any thread."""
        self._inbox.append(ticket)
        self._wake.set()
        if self._over:
            self._end_all()

    def cancel(self, ticket: Ticket) -> None:
        """Gives a job up, from any thread. A step that serves nobody else is aborted."""
        ticket.cancelled = True
        self._wake.set()
        stepping = self._stepping
        if stepping and all(other.cancelled for other in stepping):
            self._model.abort()  # a step that has begun meanwhile is only begun again

    def stop(self) -> None:
        """Ends the thread after the step in progress, and waits for that."""
        self._stopped = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def abort(self) -> None:
        """Ends the step in progress and the thread, from any thread; does not wait."""
        self._stopped = True
        self._wake.set()
        self._model.abort()

    @property
    def counts(self) -> tuple[int, int]:
        """Choices that run and that wait, from any thread."""
        with self._moving:
            arriving = sum(len(ticket.sequences) for ticket in tuple(self._inbox))
            return len(self._running), len(self._waiting) + arriving

    def is_full(self, max_queued: int) -> bool:
        """Whether so many choices wait beyond those that find a place at once."""
        running, waiting = self.counts
        free = 0 if self._waiting else max(self._limits.places(goes_on=False) - running, 0)
        return waiting >= max_queued + free

    @property
    def degraded(self) -> bool:
        """Whether reads have ended several jobs within a minute."""
        return self._steps.degraded

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._turn()
        except BaseException as error:
            self.failure = error
            logger.exception("the step thread has ended")
        self._over = True
        self._end_all()

    def _end_all(self) -> None:
        """Ends all jobs, in the step thread or after its end."""
        why = "the engine has failed"
        with self._ending:
            self._take_inbox()
            for sequence in (*self._waiting.values(), *self._running.values()):
                sequence.session = None
                self.prefixes.forget(sequence)
                last = sequence.end("error", why) if self.failure else sequence.end("cancelled")
                self._tell(sequence, last)
            self._waiting, self._running = {}, {}
            self._outbox.send()

    def _turn(self) -> None:
        self._wake.clear()
        self._take_inbox()
        if not self._running and any(q.left > self._limits.short for q in self._waiting.values()):
            time.sleep(TOGETHER)
            self._take_inbox()
        self._drop_cancelled()
        wanted = self._plan()
        if wanted.preempt and self.prefixes.drop_reads():
            wanted = self._plan()
        if wanted.preempt or wanted.admit:
            self._outbox.send()  # a restore may take long
            self._apply(wanted)
            wanted = self._plan()
        self._evict(wanted)
        feed = [(self._running[key], n) for key, n in wanted.feed if key in self._running]
        if feed:
            self._step(feed)
        if not feed or not self._running or time.monotonic() >= self._look_at:
            self._look()
        if not feed or not self._running or self._stopped:
            self._outbox.send()  # else with the next step
        if not feed and not self._inbox and not self._stopped:
            if not self._running and not self._waiting:
                self._wake.wait()
            elif self.prefixes.is_busy:
                self._wake.wait(REST)

    def _take_inbox(self) -> None:
        while self._inbox:
            with self._moving:
                ticket = self._inbox.popleft()
                self._waiting |= {sequence.key: sequence for sequence in ticket.sequences}
            for sequence in ticket.sequences:
                self._tickets[sequence.key] = ticket
                self.prefixes.expect(sequence)

    def _drop_cancelled(self) -> None:
        for key, ticket in list(self._tickets.items()):
            if ticket.cancelled:
                sequence = self._waiting.pop(key, None) or self._running.get(key)
                if sequence is not None:
                    self._release(sequence, sequence.end("cancelled"))

    def _plan(self) -> StepPlan:
        now, self._held = time.monotonic(), 0
        running = tuple(self._view(key, q) for key, q in self._running.items())
        promised = sum(r.promised for r in running) if self._waiting else 0
        waiting = tuple(
            Waiting(key, q.job.client, q.left, self._room.bytes(q.expected(AHEAD)),
                    now - q.taken.submitted, self._ready(q, promised), q.goes_on)
            for key, q in self._waiting.items()
        )  # fmt: skip
        state = State(waiting, running, self._room.free_bytes, self.prefixes.nbytes, now)
        return plan(state, self._costs, self._limits)

    def _view(self, key: int, sequence: Sequence) -> Running:
        """What the scheduler knows of a choice that runs."""
        at, room = sequence.position, self._room
        pending, most = len(sequence.tokens) - at, self._limits.most
        if pending > 1:
            most = min(most, sequence.until_checkpoint(at) or most)
            if sequence.echoes:
                most = min(most, sequence.scored)
        step, held = at + min(pending, most), room.bytes(at)
        self._held += held
        return Running(key, sequence.job.client, pending, most, room.bytes(step) - held,
                       room.bytes(sequence.expected(AHEAD)) - held)  # fmt: skip

    def _ready(self, sequence: Sequence, promised: int) -> bool:
        """Choices after the first wait until that has the prompt, and go on from its snapshot."""
        if self._running and self._set_back.holds(sequence.key):
            return False
        first = self._tickets[sequence.key].sequences[0]
        if sequence is first:
            return self.prefixes.is_ready(sequence, promised)
        return first.finish is not None or first.generated > 0

    def _apply(self, wanted: StepPlan) -> None:
        later = self._evict(wanted)
        for key in wanted.preempt:
            self._preempt(self._running[key])
        for key in () if later else wanted.admit:
            self._admit(self._waiting.pop(key), time.monotonic())

    def _evict(self, wanted: StepPlan) -> bool:
        """Whether there is room later: those who are admitted wait for what is written to disk."""
        return self.prefixes.evict(wanted.evict, time.monotonic(), spills=bool(wanted.admit))

    def _preempt(self, sequence: Sequence) -> None:
        """Takes its session. Its tokens are computed again, which gives the same bits."""
        sequence.session = None
        self._waiting[sequence.key] = self._running.pop(sequence.key)
        self._metrics.preemptions.inc()

    def _admit(self, sequence: Sequence, now: float) -> None:
        job, taken = sequence.job, sequence.taken
        match, on_disk = self.prefixes.match(sequence, now)
        use = match.position
        try:
            session = self._model.session()
            sequence.restore(session, match.kept)
        except MemoryBudgetError as error:
            sequence.session = None
            self._waiting[sequence.key] = sequence
            if not self.prefixes.make_room(now) and not self._running:
                self._waiting.pop(sequence.key)
                self._release(sequence, sequence.end("error", str(error)))
            return
        self._running[sequence.key] = sequence
        sequence.checkpoints = self.prefixes.checkpoints(sequence, match.known)
        if taken.admitted is None:
            taken.admitted, taken.cached, taken.on_disk = now, use, on_disk
            self._metrics.admitted(len(job.ids), use, now - taken.submitted, on_disk)
            if sequence.choice == 0:
                begun = sequence.usage()
                usage = Usage(begun.prompt, begun.cached_memory, begun.cached_disk,
                              queue_s=begun.queue_s)  # fmt: skip
                self._tell(sequence, Delta(usage=usage))

    def _step(self, feed: Feed) -> None:
        self._set_back.step()
        left = [q.pending for q, _ in feed]  # all that decode are fed
        prompt = sum(n for (_, n), m in zip(feed, left, strict=True) if m > self._limits.short)
        self._stepping = tuple({self._tickets[q.key] for q, _ in feed})
        begin = time.monotonic()
        done = self._steps.run(feed, self._outbox)
        self._stepping, now = (), time.monotonic()
        rows: Counter[str] = Counter()
        for sequence, n, chosen in done:
            rows[sequence.job.client] += n
            self._push(sequence, chosen, now)
        if done:
            self._costs.observe(now, now - begin, rows, prompt, left.count(1))
            made = sum(chosen is not None for _, _, chosen in done)
            self._metrics.stepped(now - begin, sum(rows.values()), made, prompt > 0)

    def _make_room(self, error: MemoryBudgetError) -> None:
        """Takes a share of the snapshots, then the session of the youngest choice."""
        if self.prefixes.make_room(time.monotonic()):
            return
        youngest = max(self._running.values(), key=lambda q: q.key)
        if len(self._running) == 1:
            self._fail(youngest, error)
        else:
            self._set_back.put(youngest.key, len(youngest.tokens))
            self._preempt(youngest)

    def _push(self, sequence: Sequence, chosen: Choice | None, now: float) -> None:
        delta = self._steps.guarded(sequence, sequence.push, chosen, now)
        if sequence.finish == "error":
            return
        if sequence.finish is not None and delta is not None:
            self._metrics.finished(sequence.usage())
            self._release(sequence, delta)
            return
        if sequence.checkpoints and sequence.position in sequence.checkpoints:
            self.prefixes.keep(sequence)
        if delta is not None:
            self._tell(sequence, delta)

    def _fail(self, sequence: Sequence, error: BaseException) -> None:
        """Ends a choice. What went wrong unexpectedly is told by the log alone."""
        known = isinstance(error, MoefluxError)
        logger.warning("request %s: %s", sequence.job.id, str(error), exc_info=not known)
        why = str(error) if known else "the choice failed; the server's log says why"
        self._release(sequence, sequence.end("error", why))

    def _release(self, sequence: Sequence, last: Delta) -> None:
        """Ends a choice. What its session holds stays in the cache."""
        if last.finish != "error":
            self.prefixes.keep(sequence)
        self._look_at = 0.0  # before anybody is told
        self._set_back.end(sequence.key, made_room=sequence.session is not None)
        sequence.session = None
        self.prefixes.forget(sequence)
        self._running.pop(sequence.key, None)
        self._waiting.pop(sequence.key, None)  # it lost its session in the step that ended it
        self._tell(sequence, last)
        self._tickets.pop(sequence.key, None)

    def _tell(self, sequence: Sequence, delta: Delta) -> None:
        ticket = self._tickets.get(sequence.key)
        if ticket is not None:
            self._outbox.put(ticket, delta)

    def _look(self) -> None:
        """At the model's counters and at what is held, for those who ask."""
        before, self.stats = self.stats, self._model.stats
        self._look_at = time.monotonic() + LOOK
        self._metrics.load(self._held, self._room.free_bytes, before, self.stats,
                           self.prefixes.nbytes, len(self.prefixes))  # fmt: skip
        if (disk := self.prefixes.disk) is not None:
            self._metrics.on_disk(len(disk), disk.nbytes, disk.counts)
