"""OpenAI's /v1/completions: texts that are gone on with, and scored."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Served, check_length, compiled, run, timings, total
from ..engine import Delta, Job, TokenLogprob, Usage
from ..http.errors import as_api_error, bad
from ..http.limits import new_id
from ..http.sse import Begun, EventStream, event, while_connected
from ..tokens import finite
from .chat import usage_of
from .common import Api, api_of, client, now, request_id, scope
from .content import one_rule
from .schema.fields import sampling, validated
from .schema.openai import CompletionBody

MAX_PROMPTS = 1024
AT_ONCE = 8  # jobs of one request
REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


async def completions(request: Request) -> Response:
    """Goes on with one or several texts."""
    api = api_of(request)
    body = validated(CompletionBody, await api.body(request))
    asked = await Asked.of(request, api, body)
    if not body.stream:
        return JSONResponse(await while_connected(request, asked.whole()))
    begun = Begun.wait(asked.deltas(), api.settings.keep_alive)
    source = await while_connected(request, begun)
    return EventStream(
        asked.stream(source), source, silence=api.settings.keep_alive,
        write_timeout=api.settings.write_timeout,
    )  # fmt: skip


async def prompts_of(body: CompletionBody, served: Served) -> list[list[int]]:
    """Token ids of each prompt: a text, texts, ids, or lists of ids.

    Raises:
        ApiError: it is none of these, or an id is beyond the vocabulary.
    """
    given = body.prompt
    if isinstance(given, str) or (given and all(_is_id(item) for item in given)):
        given = [given]
    if not 0 < len(given) <= MAX_PROMPTS:
        raise bad(f"expected 1 to {MAX_PROMPTS} prompts, found {len(given)}", "prompt")
    vocab = served.engine.info.vocab_size
    found = []
    for i, item in enumerate(given):
        if isinstance(item, str):
            ids = await asyncio.to_thread(served.renderer.tokenizer.encode, item)
        elif isinstance(item, list) and all(_is_id(token) for token in item):
            ids = item
        else:
            raise bad("expected a text, texts, token ids or lists of them", f"prompt[{i}]")
        if not ids or not all(0 <= token < vocab for token in ids):
            raise bad(f"expected one or more token ids below {vocab}", f"prompt[{i}]")
        check_length(len(ids), served)
        found.append(ids)
    return found


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _usage(usages: Sequence[Usage]) -> dict[str, Any]:
    """That of all prompts together."""
    return usage_of(Usage(
        prompt=sum(u.prompt for u in usages),
        generated=sum(u.generated for u in usages),
        cached_memory=sum(u.cached_memory + u.cached_disk for u in usages),
    ))  # fmt: skip


@dataclass
class Scored:
    """Tokens with logprobs, as completions list them."""

    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)


class Asked:
    """A request of completions: a job for each prompt."""

    def __init__(self, served: Served, body: CompletionBody, jobs: list[Job], begun: float) -> None:
        self._served, self._body, self._jobs = served, body, jobs
        self._id, self._created, self._n = new_id("cmpl-"), now(), body.n or 1
        self._begun = begun
        self._max = jobs[0].sampling.max_tokens
        self._echo = bool(body.echo)
        self._told: Counter[int] = Counter()  # characters of a stream's choices, by their index

    @classmethod
    async def of(cls, request: Request, api: Api, body: CompletionBody) -> Asked:
        """Checks a body and makes its jobs."""
        served, begun = api.models.find(body.model), time.monotonic()
        if body.suffix:
            raise bad("a suffix is not done here", "suffix")
        if body.best_of not in (None, body.n or 1):
            raise bad("best_of is not done here, only n", "best_of")
        limit = body.max_tokens if body.n_predict is None else body.n_predict
        if limit == 0 and not body.echo:
            raise bad("expected at least one token, or echo", "max_tokens")
        chosen = sampling(body, served, limit, body.logprobs)
        echo = body.logprobs if body.echo and body.logprobs is not None else None
        grammar = await compiled(served.engine, one_rule(body))
        prompts = await prompts_of(body, served)
        whose = client(request, body.prompt_cache_key, body.user)
        jobs = [
            Job(ids, chosen, constraint=grammar, n=body.n or 1, echo=echo, client=whose,
                scope=scope(request, api), id=request_id(request))
            for ids in prompts
        ]  # fmt: skip
        return cls(served, body, jobs, begun)

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id, "object": "text_completion", "created": self._created,
            "model": self._served.name,
            "system_fingerprint": self._served.engine.info.fingerprint,
        }  # fmt: skip

    async def _of_job(self, job: Job) -> AsyncGenerator[Delta, None]:
        """Deltas of a job. Choices of no tokens are all alike, and without scores known."""
        empty = self._max == 0
        if empty and job.echo is None:
            usage = Usage(prompt=len(job.ids))
            for item in (Delta(usage=usage), *(Delta(i, finish="length", usage=usage)
                                               for i in range(job.n))):  # fmt: skip
                yield item
            return
        asked = replace(job, n=1) if empty else job
        async with aclosing(run(self._served, asked, self._begun)) as deltas:
            async for item in deltas:
                yield item
                for choice in range(1, job.n) if empty and item.finish else ():
                    yield replace(item, choice=choice)

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """(number of the prompt, delta), one prompt after another."""
        for number, job in enumerate(self._jobs):
            async with aclosing(self._of_job(job)) as deltas:
                async for item in deltas:
                    yield number, item

    async def whole(self) -> dict[str, Any]:
        """The answer as one object; several prompts are computed together."""
        places = asyncio.Semaphore(AT_ONCE)

        async def one(job: Job) -> list[Delta]:
            async with places, aclosing(self._of_job(job)) as deltas:
                return [item async for item in deltas]

        tasks = [asyncio.ensure_future(one(job)) for job in self._jobs]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        choices, usages = [], []
        for number, (job, deltas) in enumerate(zip(self._jobs, found, strict=True)):
            for choice in range(job.n):
                own = [d for d in deltas if d.choice == choice]
                choices.append(self._choice(number * job.n + choice, job, deltas, own))
            usages.append(total([d.usage for d in deltas if d.finish and d.usage]))
        more = {"timings": timings(usages[0])} if len(usages) == 1 else {}
        return {**self._head(), "choices": choices, "usage": _usage(usages), **more}

    def _choice(
        self, index: int, job: Job, deltas: Sequence[Delta], own: Sequence[Delta]
    ) -> dict[str, Any]:
        prompt = self._prompt_text(job) if self._echo else ""
        text = prompt + "".join(item.text for item in own)
        logprobs = None
        if self._body.logprobs is not None:
            scored = Scored()
            if self._echo:
                scores = next((d.scores for d in deltas if d.scores is not None), None)
                self._add(scored, job.ids, scores.tokens if scores else (), 0)
            for item in own:
                self._add(scored, item.tokens, item.logprobs, len(prompt))
            logprobs = vars(scored)
        reason = REASONS[next(item.finish for item in own if item.finish)]
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _prompt_text(self, job: Job) -> str:
        text: str = self._served.renderer.tokenizer.decode(list(job.ids), skip_special_tokens=False)
        return text

    def _add(
        self, scored: Scored, ids: Sequence[int], logprobs: Sequence[TokenLogprob | None], base: int
    ) -> None:
        """Appends tokens. A token's place is where its text begins in the sum of all of them."""
        name = self._served.tokens.name
        at = scored.text_offset[-1] + len(scored.tokens[-1]) if scored.tokens else base
        for token, found in zip(ids, logprobs, strict=False):
            text = name(token)
            scored.tokens.append(text)
            scored.text_offset.append(at)
            at += len(text)
            if found is None:
                scored.token_logprobs.append(None)
                scored.top_logprobs.append(None)
                continue
            top: dict[str, float] = {}
            for other, logprob in found.top:
                top.setdefault(name(other), finite(logprob))
            top.setdefault(text, finite(found.logprob))
            scored.token_logprobs.append(finite(found.logprob))
            scored.top_logprobs.append(top)

    async def stream(self, source: Begun[tuple[int, Delta]]) -> AsyncGenerator[bytes, None]:
        """Chunks of text; usage where it is asked for; [DONE]."""
        usages: list[list[Usage]] = [[] for _ in self._jobs]
        try:
            async for number, item in source:
                job = self._jobs[number]
                if item.finish and item.usage:
                    usages[number].append(item.usage)
                admitted = item.usage is not None and item.finish is None
                if self._echo and (item.scores is not None or (admitted and job.echo is None)):
                    for choice in range(job.n):
                        yield self._echoed(number * job.n + choice, job, item)
                more = {}
                if item.finish:
                    ended = [usage for one in usages for usage in one]
                    last = len(ended) == len(self._jobs) * job.n
                    more = {"timings": timings(total(ended))} if last else {}
                if item.text or item.tokens or item.finish:
                    yield self._chunk(number * job.n + item.choice, item, more)
        except Exception as error:
            yield event(as_api_error(error).openai())
            return
        if self._body.include_usage:
            usage = _usage([total(one) for one in usages])
            yield event({**self._head(), "choices": [], "usage": usage})
        yield event("[DONE]")

    def _echoed(self, index: int, job: Job, item: Delta) -> bytes:
        """The prompt, with its logprobs where they are asked for."""
        scored = self._scored(index, job.ids, item.scores.tokens if item.scores else ())
        return self._one(index, self._prompt_text(job), scored, None, {})

    def _chunk(self, index: int, item: Delta, more: Mapping[str, Any]) -> bytes:
        scored = self._scored(index, item.tokens, item.logprobs)
        reason = REASONS[item.finish] if item.finish else None
        return self._one(index, item.text, scored, reason, more)

    def _scored(
        self, index: int, ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]
    ) -> Scored | None:
        """More tokens of a stream, whose places go on from the last ones; None: unwanted."""
        if self._body.logprobs is None:
            return None
        scored = Scored()
        self._add(scored, ids, logprobs, self._told[index])
        self._told[index] += sum(map(len, scored.tokens))
        return scored

    def _one(
        self, index: int, text: str, scored: Scored | None, reason: str | None,
        more: Mapping[str, Any],
    ) -> bytes:  # fmt: skip
        logprobs = None if scored is None else vars(scored)
        one = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._body.include_usage else {}
        return event({**self._head(), "choices": [one], **usage, **more})
