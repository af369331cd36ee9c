"""The seam between HTTP and a model: what an engine is asked, what it answers. Only data here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import MoefluxError
from ..sampling import SamplingParams


class Busy(MoefluxError):
    """The queue is full, or the engine is draining: ask again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Late(MoefluxError):
    """The job has had all the seconds that it may take."""


class EngineError(MoefluxError):
    """The engine could not finish this job, through no fault of the request."""


class Constraint(Protocol):
    """What one choice may say next. It moves on with each token that is chosen."""

    def mask(self) -> Any:
        """uint32 (ceil(vocab / 32),): bit i of word w allows token 32 * w + i. None allows all."""

    def consume(self, token: int) -> None:
        """Goes on after a token that the mask allowed."""

    @property
    def stopped(self) -> bool:
        """Whether nothing but the end may follow."""


class Grammar(Protocol):
    """A compiled grammar. Each choice takes a Constraint of its own."""

    def start(self) -> Constraint:
        """A Constraint at the beginning of the grammar."""


@dataclass(frozen=True)
class Sampling:
    """How tokens of a job are chosen, and where its choices end.

    Attributes:
        temperature: as the next four in `SamplingParams`; 0 is greedy.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        repetition_penalty: 1 is off. It sees prompt and output, as in transformers.
        presence_penalty: subtracted from the logits of tokens of the output.
        frequency_penalty: subtracted once for each time that the token is in the output.
        bias: added to the logits, by token id; -inf forbids one.
        seed: of the draws; choice i of a job draws with seed + i.
        stop: strings that end a choice; they are no part of it.
        stop_ids: tokens that end a choice, besides the model's own ends; no part of it.
        ignore_eos: the model's own ends are forbidden.
        min_tokens: no end before this many.
        max_tokens: None goes on to the end of the context.
        top_logprobs: alternatives a token; None reports no logprobs at all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    max_tokens: int | None = None
    top_logprobs: int | None = None

    def params(self, choice: int) -> SamplingParams:
        """Those of one choice. Raises SessionError for a value out of its range."""
        return SamplingParams(self.temperature, self.top_k, self.top_p, self.min_p,
                              self.repetition_penalty, self.bias, self.seed + choice,
                              self.presence_penalty, self.frequency_penalty)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What an engine is asked; nothing of HTTP is in it.

    Attributes:
        ids: the prompt's tokens, at least one.
        sampling: see Sampling.
        marks: positions in the prompt worth a checkpoint, ascending: the ends of what other
            prompts will share.
        constraint: a grammar that each choice follows.
        n: choices, which share the prompt.
        echo: report the prompt's own logprobs with this many alternatives; None does not.
        done: tokens of an earlier run of this job: taken as chosen, and not delivered again.
        lost: a run of it was lost after its client had news of it, of no token perhaps.
        client: OWNER/SESSION, for fairness: owners take turns, and so do the sessions of each.
        scope: jobs of different scopes share no snapshots, so that none learns from the time that
            its answer takes what another one has asked.
        id: of the request, for the log.
        shown: special tokens that are part of the text: markup of calls and reasoning.
        seconds: that it may take from its submission to its end; None: any.
    """

    ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    marks: Sequence[int] = ()
    constraint: Grammar | None = None
    n: int = 1
    echo: int | None = None
    done: Sequence[int] = ()
    lost: bool = False
    client: str = ""
    scope: str = ""
    id: str = ""
    shown: frozenset[str] = frozenset()
    seconds: float | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token, the natural log of its probability before temperature, and (id, logprob) of the
    most probable ones, best first.
    """  # noqa: D205

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Scores:
    """Of a prompt's tokens; the first is None, for nothing comes before it."""

    tokens: tuple[TokenLogprob | None, ...]


@dataclass(frozen=True)
class Usage:
    """What a choice took.

    Attributes:
        prompt: tokens of the prompt.
        cached_memory: of them, those that a snapshot in memory held.
        cached_disk: of them, those that a snapshot on disk held.
        generated: tokens chosen, an end token included.
        hits: experts found in memory by the passes that this choice was in, shared or not.
        misses: experts read by them.
        read_bytes: bytes read by them.
        wait_s: seconds that they waited for reads.
        queue_s: seconds from submission to admission.
        prefill_s: seconds from admission to the first token.
        decode_s: seconds from the first token to the last.
    """

    prompt: int = 0
    cached_memory: int = 0
    cached_disk: int = 0
    generated: int = 0
    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    wait_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Delta:
    """News of one choice: the tokens since the last Delta, often one.

    The first of a job comes at admission and has no tokens. The last of a choice has `finish`.

    Attributes:
        choice: its index, from 0.
        tokens: chosen tokens. What ends a choice (an end token) is not among them.
        text: what can be shown now; empty while a character or a stop string is incomplete.
        logprobs: one of each of `tokens`, where the job asks for them.
        finish: None, "eos", "stop", "length", "cancelled" or "error".
        stop: the stop string or id that ended the choice; None where none did.
        usage: on the last of a choice, and `prompt` and cached tokens on the first of a job.
        scores: of the prompt, once, where the job has `echo`.
        error: what went wrong, where `finish` is "error".
    """

    choice: int = 0
    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    stop: str | int | None = None
    usage: Usage | None = None
    scores: Scores | None = None
    error: str | None = None


@dataclass(frozen=True)
class Health:
    """How an engine does.

    Attributes:
        state: "ok", "degraded" (reads failed within a minute), "draining" or "failed".
        running: choices that are computed.
        waiting: jobs in the queue.
        detail: a sentence, where the state is not "ok".
    """

    state: str = "ok"
    running: int = 0
    waiting: int = 0
    detail: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """What a client may know of an engine's model.

    Attributes:
        name: that the server calls it by.
        context: tokens of prompt and answer.
        vocab_size: token ids are below it.
        parameters: of the model.
        memory_bytes: the budget.
        fingerprint: the same request to engines of the same fingerprint has the same answer.
        defaults: fields of Sampling that the checkpoint asks for where a request does not.
    """

    name: str
    context: int
    vocab_size: int
    parameters: int
    memory_bytes: int
    fingerprint: str
    defaults: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """A model that jobs are sent to. All methods are called on one event loop."""

    @property
    def info(self) -> ModelInfo:
        """What is served."""

    @property
    def tokenizer(self) -> Any:
        """The model's Tokenizer."""

    def submit(self, job: Job) -> AsyncIterator[Delta]:
        """Runs a job. To close the iterator cancels it.

        Raises:
            Busy: at the first item.
            Late: at any.
            SessionError: the prompt is empty, past the context, or has ids that are none.
        """

    async def compile(self, kind: str, source: str, *, strict: bool = True) -> Grammar:
        """Compiles a grammar for `Job.constraint`.

        Args:
            kind: "json_schema", "regex", "lark", "gbnf" or "json" (any JSON object; no source).
            source: the schema as JSON text, the pattern or the grammar.
            strict: refuse what cannot be held exactly; else leave it out.

        Raises:
            SessionError: the source is wrong, too large, or takes too long.
            Busy: other sources take too long.
        """

    def health(self) -> Health:
        """How it does now."""

    def stats(self) -> Mapping[str, Any]:
        """The model's counters (`Model.stats`), and the scheduler's and the cache's."""

    async def drain(self, seconds: float) -> None:
        """Takes no more jobs, lets running ones finish for so long, ends the rest and stops."""
