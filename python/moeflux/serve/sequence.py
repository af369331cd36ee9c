"""`Sequence`: one choice of a job, from its prompt to its end. Knows no other choice, no policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..generation import StopStrings
from ..sampling import Choice, Sampler
from ..session import Session
from ..tokenizer import Tokenizer
from .engine import Constraint, Delta, Job, Sampling, Scores, TokenLogprob, Usage
from .prefix_cache import Kept

NEVER = 1 << 31  # tokens: no context is as long


class Chooser:
    """Chooses the tokens of one choice, under its penalties, bans and constraint.

    Args:
        sampling: of the job.
        choice: which of the job's it chooses for.
        ends: tokens that end it.
        prompt: for the repetition penalty.
        constraint: which it moves on; None allows all.
    """

    def __init__(
        self,
        sampling: Sampling,
        choice: int,
        ends: frozenset[int],
        prompt: Iterable[int],
        constraint: Constraint | None,
    ) -> None:
        s = sampling
        least = NEVER if s.ignore_eos else s.min_tokens
        self._sampler = Sampler(s.params(choice), seen=prompt, ends=sorted(ends), min_tokens=least,
                                top_logprobs=s.top_logprobs)  # fmt: skip
        self._constraint = constraint

    def sampler(self) -> Sampler:
        """For the next token. Raises EngineError for a constraint that cannot go on."""
        if self._constraint is not None:
            self._sampler.mask = self._constraint.mask()
        return self._sampler

    def take(self, token: int) -> None:
        """Goes on after a token that the sampler chose."""
        if self._constraint is not None:
            self._constraint.consume(token)

    def replay(self, token: int) -> None:
        """Goes on after a token that was chosen elsewhere, as if it had been chosen here."""
        self._sampler.take(token)
        self.take(token)

    @property
    def finished(self) -> bool:
        """Whether its constraint allows nothing but the end."""
        return self._constraint is not None and self._constraint.stopped


@dataclass
class Taken:
    """What the passes of a choice took so far, and when what happened."""

    cached: int = 0
    on_disk: bool = False  # the cached ones were there
    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    wait_s: float = 0.0
    submitted: float = 0.0
    admitted: float | None = None
    first: float | None = None
    last: float | None = None

    def add(self, step: Mapping[str, Any]) -> None:
        """A step more, of `Session.last_step`."""
        self.hits += step["hits"]
        self.misses += step["misses"]
        self.read_bytes += step["bytes_read"]
        self.wait_s += step["wait_seconds"]

    def usage(self, prompt: int, generated: int) -> Usage:
        """As the client is told."""
        begin = self.admitted if self.admitted is not None else self.submitted
        first = self.first if self.first is not None else begin
        return Usage(
            prompt=prompt,
            cached_memory=0 if self.on_disk else self.cached,
            cached_disk=self.cached if self.on_disk else 0,
            generated=generated,
            hits=self.hits,
            misses=self.misses,
            read_bytes=self.read_bytes,
            wait_s=self.wait_s,
            queue_s=begin - self.submitted,
            prefill_s=first - begin,
            decode_s=(self.last if self.last is not None else first) - first,
        )


class Sequence:
    """One choice of a job.

    Its tokens are the prompt's and those chosen. The session holds the first of them; the others
    are pending: many of a prompt, or of a choice whose session went to make room, one in decode.

    Attributes:
        job: that it belongs to.
        choice: which of the job's.
        key: the order of arrival.
        tokens: prompt and chosen ones.
        session: None while it waits.
        checkpoints: lengths at which the session's state shall be kept, ascending.
        finish: as in Delta; None while it goes on.
        taken: see Taken.
    """

    def __init__(self, job: Job, choice: int, key: int, tokenizer: Tokenizer, context: int) -> None:
        s = job.sampling
        self.job, self.choice, self.key = job, choice, key
        self.tokens = [*job.ids, *job.done]
        self.session: Session | None = None
        self.checkpoints: list[int] = []
        self.finish: str | None = None
        self.taken = Taken()
        self._end: str | int | None = None
        self._n_prompt = len(job.ids)
        room = context - self._n_prompt + 1  # the last token need not be held
        self._most = room if s.max_tokens is None else min(s.max_tokens, room)
        self._ends = (frozenset() if s.ignore_eos else tokenizer.eos_ids) | s.stop_ids
        self._n_ends = 0  # end tokens that were chosen: none or one
        constraint = job.constraint.start() if job.constraint is not None else None
        every_end = tokenizer.eos_ids | s.stop_ids
        self._chooser = Chooser(s, choice, every_end, list(job.ids), constraint)
        self._stream = tokenizer.stream(job.shown)
        self._stops = StopStrings(s.stop)
        self._scores: list[TokenLogprob | None] = [None]
        self._told_scores = choice > 0 or job.echo is None
        for token in job.done:
            self._chooser.replay(token)
            self._stops.push(self._stream.push(token))

    @property
    def position(self) -> int:
        """Tokens that the session holds."""
        return self.session.position if self.session is not None else 0

    @property
    def pending(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.tokens) - self.position

    @property
    def left(self) -> int:
        """Tokens to compute before its next one, where what the cache has of it is used."""
        return len(self.tokens) - self.taken.cached

    @property
    def generated(self) -> int:
        """Tokens chosen, by this run or an earlier one."""
        return len(self.tokens) - self._n_prompt

    @property
    def goes_on(self) -> bool:
        """Whether its client sees a pause while it waits."""
        return self.job.lost or self.generated > 0

    @property
    def echoes(self) -> bool:
        """Whether its next tokens are to be scored."""
        return not self._told_scores and len(self._scores) < self._n_prompt

    @property
    def scored(self) -> int:
        """Tokens that a step which scores can take: another one of the prompt follows them."""
        return self._n_prompt - 1 - self.position

    def expected(self, ahead: int) -> int:
        """Tokens that it is going to hold, with so many of its answer at most."""
        n = len(self.tokens)
        return n - 1 + min(max(self._most + self._n_prompt - n, 1), ahead)

    def until_checkpoint(self, position: int) -> int | None:
        """Tokens from its position to the next checkpoint; None where there is none."""
        return next((at - position for at in self.checkpoints if at > position), None)

    def next(self, n: int) -> list[int]:
        """The next n pending tokens."""
        at = self.position
        return self.tokens[at : at + n]

    def restore(self, session: Session, kept: Kept | None) -> None:
        """Takes a session, which goes on from a snapshot."""
        if kept is not None:
            session.restore(kept.snapshot)
        self.session = session

    def save(self) -> Kept:
        """Its session's state.

        Raises:
            MemoryBudgetError: it finds no room.
        """
        assert self.session is not None
        snapshot = self.session.save()
        return Kept(snapshot, snapshot.extents)

    def sampler(self, n: int) -> Sampler | None:
        """What chooses a token after the next n; None where none is wanted.

        Raises:
            EngineError: the constraint cannot go on.
        """
        wanted = n == self.pending and self.generated < self._most
        return self._chooser.sampler() if wanted else None

    def score(self, n: int) -> None:
        """Steps the next n tokens, and keeps the scores of those after them.

        Raises:
            SessionError, MemoryBudgetError, IoError, Interrupted: as `Session.step`.
        """
        assert self.session is not None
        begin = self.position + 1  # of what is found out
        following = self.tokens[self.position + n]
        found = self.session.score(self.next(n), top=self.job.echo or 0, following=following)
        logprobs, ids, values = (array[1:].tolist() for array in found)
        for i in range(max(len(self._scores) - begin, 0), n):
            top = tuple(zip(ids[i], values[i], strict=True))
            self._scores.append(TokenLogprob(self.tokens[begin + i], logprobs[i], top))

    def push(self, chosen: Choice | None, now: float) -> Delta | None:
        """Goes on after a step of its next tokens.

        Args:
            chosen: by its sampler. It counts though another's step took the session meanwhile: the
                sampler has moved on.
            now: seconds of a clock.

        Returns:
            What is new for the client, if anything.

        Raises:
            EngineError: the constraint cannot go on.
        """
        if self.session is not None:
            self.taken.add(self.session.last_step)
        scores = None
        if not self._told_scores and not self.echoes:
            self._told_scores, scores = True, Scores(tuple(self._scores))
        if chosen is None and self.pending:
            return Delta(self.choice, scores=scores) if scores else None
        delta = self._close("length") if chosen is None else self._go_on(chosen)
        self.taken.first = self.taken.first if self.taken.first is not None else now
        self.taken.last = now
        if not delta.finish and scores is None:
            return delta
        return replace(delta, scores=scores, usage=self.usage() if delta.finish else None)

    def end(self, finish: str, error: str | None = None) -> Delta:
        """Ends it for a reason from outside: "cancelled" or "error"."""
        self.finish = finish
        return Delta(self.choice, finish=finish, usage=self.usage(), error=error)

    def usage(self) -> Usage:
        """What it took so far."""
        return self.taken.usage(self._n_prompt, self.generated + self._n_ends)

    def _go_on(self, chosen: Choice) -> Delta:
        token = chosen.token
        if token in self._ends:
            self._n_ends = 1
            self._end = token
            return self._close("eos")
        self._chooser.take(token)
        self.tokens.append(token)
        text, stopped = self._stops.push(self._stream.push(token))
        told = self.job.sampling.top_logprobs is not None
        logprobs = (TokenLogprob(token, chosen.logprob, chosen.top),) if told else ()
        if stopped:
            self.finish, self._end = "stop", self._stops.met
        elif self._chooser.finished:
            text += self._close("eos").text
        elif self.generated >= self._most:
            text += self._close("length").text
        return Delta(self.choice, (token,), text, logprobs, self.finish, self._end)

    def _close(self, reason: str) -> Delta:
        """Ends with what was held back, which may hold a stop string."""
        text, stopped = self._stops.push(self._stream.finish())
        if stopped:
            self.finish, self._end = "stop", self._stops.met
        else:
            self.finish, text = reason, text + self._stops.finish()
        return Delta(self.choice, text=text, finish=self.finish, stop=self._end)
