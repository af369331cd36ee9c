"""One request to one model: rendered, sent to its engine, told as events."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import SessionError
from .blocks import Blocks
from .dialogue import Dialogue, OutputRule
from .engine import Delta, Engine, Grammar, Job, Sampling, Usage
from .events import Event, Finish, Started
from .http.errors import ApiError, as_api_error, bad
from .http.limits import new_id
from .parse.grammar import rule_of
from .parse.markup import Markup
from .parse.parser import Parser
from .render import Prompt, Renderer
from .settings import Settings
from .tokens import TokenTexts

logger = logging.getLogger("moeflux.serve")
ENDS = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass
class Served:
    """A model that is served."""

    engine: Engine
    renderer: Renderer
    seconds: float | None = None  # that a request may take
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.tokens = TokenTexts(self.renderer.tokenizer)

    @property
    def name(self) -> str:
        """What the server calls it."""
        return self.engine.info.name


class Models:
    """The models by name. With one of them every name is its own: agents ask for theirs."""

    def __init__(self, engines: Mapping[str, Engine], settings: Settings) -> None:
        self.served = {
            name: Served(engine, _renderer(engine, settings), settings.request_timeout)
            for name, engine in engines.items()
        }
        self._aliases = settings.aliases

    def find(self, name: str | None, default: bool = True) -> Served:
        """The model of a name or an alias. Raises ApiError where several are served, none so."""
        if name in self.served:
            return self.served[name]
        for pattern, to in self._aliases.items():
            if name is not None and fnmatch.fnmatchcase(name, pattern) and to in self.served:
                return self.served[to]
        if default and len(self.served) == 1:
            return next(iter(self.served.values()))
        there = ", ".join(self.served)
        raise ApiError(404, f"no model {str(name)[:80]!r} here; there is {there}", param="model",
                       code="model_not_found")  # fmt: skip


def _renderer(engine: Engine, settings: Settings) -> Renderer:
    tokenizer = engine.tokenizer
    if settings.chat_template is not None:
        tokenizer = tokenizer.with_template(settings.chat_template)
    return Renderer(tokenizer, settings.reasoning)


@dataclass
class Ask:
    """What a dialect asks for a dialogue.

    Attributes:
        served: the model.
        dialogue: what is said.
        sampling: how its answer is chosen.
        id: of the request, for the log.
        client: whose it is.
        scope: that may know from the time it takes what others have asked.
        n: choices.
        streamed: events are wanted as they come; else calls are given out once they are whole.
        call_prefix: of the ids of calls.
        prompt: as `render` has made it; None before.
        begun: when the request came, by `time.monotonic`.
    """

    served: Served
    dialogue: Dialogue
    sampling: Sampling
    id: str
    client: str = ""
    scope: str = ""
    n: int = 1
    streamed: bool = False
    call_prefix: str = "call_"
    prompt: Prompt | None = None
    begun: float = field(default_factory=time.monotonic)

    async def render(self) -> Prompt:
        """The prompt, checked against the context."""
        self.prompt = await asyncio.to_thread(
            self.served.renderer.render, self.dialogue, lambda n: check_length(n, self.served)
        )
        return self.prompt

    async def events(self) -> AsyncGenerator[Event, None]:
        """What happens, until every choice has finished. To close it cancels the job.

        Raises:
            ApiError: the request cannot be done, or the engine failed.
        """
        prompt = self.prompt or await self.render()
        renderer = self.served.renderer
        markup = renderer.markup
        rule = rule_of(self.dialogue, markup, prompt.opened, lambda tag: _token_of(renderer, tag))
        if rule is None and self.dialogue.choice not in ("auto", "none") and not markup.form:
            raise bad("the chat template of this model knows no calls of tools", "tool_choice")
        where = "tools" if self.dialogue.output is None else "response_format"
        grammar = await compiled(self.served.engine, rule, where)
        job = Job(
            ids=prompt.ids, sampling=self.sampling, marks=prompt.marks, n=self.n,
            constraint=grammar, client=self.client, scope=self.scope, id=self.id,
            shown=markup.tags,
        )  # fmt: skip
        parsers = [self._parser(choice, markup, prompt.opened) for choice in range(self.n)]
        said = [Blocks() for _ in range(self.n)]
        async with aclosing(run(self.served, job, self.begun)) as deltas:
            async for item in deltas:
                for event in _heard(item, parsers):
                    if not isinstance(event, Started):
                        said[event.choice].add(event)
                    if isinstance(event, Finish) and event.reason == "tool_calls":
                        reasoning = said[event.choice].text("reasoning") or None
                        for call in said[event.choice].calls():
                            renderer.replay.keep(call.id, call.text or "{}", reasoning)
                    yield event

    def _parser(self, choice: int, markup: Markup, opened: bool) -> Parser:
        use = self.dialogue.tools if self.dialogue.choice != "none" else ()
        return Parser(
            choice, markup, {tool.name: tool.parameters for tool in use}, opened=opened,
            whole=not self.streamed, parallel=self.dialogue.parallel,
            new_id=lambda: new_id(self.call_prefix),
        )  # fmt: skip


def _token_of(renderer: Renderer, tag: str) -> int | None:
    ids = renderer.tokenizer.encode(tag, add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None


def _heard(item: Delta, parsers: Sequence[Parser]) -> list[Event]:
    """The events of a delta."""
    parser = parsers[item.choice]
    out: list[Event] = []
    if item.finish is None and item.usage is not None:
        out.append(Started(item.usage))
    if item.text or item.tokens:
        out += parser.push(item.text, len(item.tokens), item.logprobs)
    if item.finish is not None:
        out += parser.finish()
        reason = ENDS[item.finish]
        if parser.n_calls and reason == "stop":
            reason = "tool_calls"
        stop = item.stop if isinstance(item.stop, str) else None
        usage = item.usage or Usage()
        out.append(Finish(item.choice, reason, stop, usage, parser.n_reasoning))
    return out


async def run(served: Served, job: Job, begun: float) -> AsyncGenerator[Delta, None]:
    """The deltas of a job, until each choice has finished; logs a line at the end.

    Args:
        served: the model.
        job: that its engine is asked.
        begun: when the request came, by `time.monotonic`: its time counts from there.

    Raises:
        ApiError: the engine refuses the job, or fails.
    """
    begin, first = time.monotonic(), None
    if served.seconds is not None:
        job = replace(job, seconds=max(served.seconds - (begin - begun), 0.0))
    done: list[Delta] = []
    try:
        async with aclosing(served.engine.submit(job)) as deltas:  # type: ignore[type-var]
            async for item in deltas:
                if item.finish == "error":
                    raise ApiError(500, item.error or "the engine failed", code="engine_error")
                if item.finish == "cancelled":
                    raise ApiError(503, "the server ends", code="cancelled")
                if first is None and item.tokens:
                    first = time.monotonic() - begin
                yield item
                if item.finish is not None:
                    done.append(item)
        if len(done) < job.n:
            raise ApiError(500, "the engine ended before the answer did", code="engine_error")
    except SessionError as error:
        raise bad(str(error)) from None
    except Exception as error:
        if not isinstance(error, ApiError):
            logger.debug("a job failed", exc_info=True)
        raise as_api_error(error) from error
    finally:
        _log(served, job, done, first)


def _log(served: Served, job: Job, done: Sequence[Delta], first: float | None) -> None:
    """One line of a request, with nothing that was said."""
    usage = total(tuple(item.usage for item in done if item.usage is not None))
    looked = usage.hits + usage.misses
    logger.info(
        "%s %s: %d tokens in, %d cached, %d out, first after %.2f s, %.1f tokens/s, hit rate "
        "%.2f, %s",
        job.id, served.name, len(job.ids), usage.cached_memory + usage.cached_disk, usage.generated,
        first or 0.0, usage.generated / usage.decode_s if usage.decode_s else 0.0,
        usage.hits / looked if looked else 1.0,
        "/".join(str(item.finish) for item in done) or "cancelled",
    )  # fmt: skip


def total(usages: Sequence[Usage]) -> Usage:
    """What the choices of a job took together; they share prompt and passes."""
    if not usages:
        return Usage()
    longest = max(usages, key=lambda usage: usage.generated)
    return replace(longest, generated=sum(usage.generated for usage in usages))


def check_length(count: int, served: Served) -> None:
    """Refuses a prompt that is longer than the context."""
    context = served.engine.info.context
    if count > context:
        raise bad(
            f"the prompt has {count} tokens, but the context of this model holds {context}",
            "messages", "context_length_exceeded",
        )  # fmt: skip


async def compiled(
    engine: Engine, rule: OutputRule | None, where: str = "response_format"
) -> Grammar | None:
    """A grammar ready for a job. Raises ApiError for one that is wrong."""
    if rule is None:
        return None
    try:
        return await engine.compile(rule.kind, rule.source, strict=rule.strict)
    except SessionError as error:
        raise bad(str(error), where) from None


def timings(usage: Usage) -> dict[str, Any]:
    """Times as llama.cpp's server names them, and what experts cost."""
    cached = usage.cached_memory + usage.cached_disk
    fed = usage.prompt - cached
    steps = max(usage.generated - 1, 0)
    return {
        "cache_n": cached,
        **_rates("prompt", fed, usage.prefill_s),
        **_rates("predicted", usage.generated, usage.decode_s, steps),
        "queue_ms": usage.queue_s * 1000,
        "moeflux": {
            "hits": usage.hits, "misses": usage.misses, "read_bytes": usage.read_bytes,
            "wait_ms": usage.wait_s * 1000,
        },
    }  # fmt: skip


def _rates(name: str, count: int, seconds: float, steps: int | None = None) -> dict[str, Any]:
    steps = count if steps is None else steps
    return {
        f"{name}_n": count,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / steps if steps else 0.0,
        f"{name}_per_second": steps / seconds if seconds else 0.0,
    }
