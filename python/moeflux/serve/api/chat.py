"""OpenAI's /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Ask, Served, timings, total
from ..blocks import Blocks, by_choice
from ..dialogue import Dialogue, arranged
from ..engine import Usage
from ..events import CallArguments, CallStart, Event, Finish, Reasoning, Started, Text
from ..http.errors import ApiError, bad
from ..http.limits import new_id
from ..http.sse import COMMENT, event
from .common import Api, answer, api_of, client, now, request_id, scope
from .content import one_rule, tool_choice, tools, turns
from .schema.fields import sampling, validated
from .schema.openai import ChatBody

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


async def chat(request: Request) -> Response:
    """Answers a chat."""
    api = api_of(request)
    body = validated(ChatBody, await api.body(request))
    ask = _ask(request, api, body)
    await ask.render()
    writer = ChatWriter(ask.served, ask.n, bool(body.logprobs), body.include_usage)
    return await answer(request, api, ask, writer)


async def input_tokens(request: Request) -> Response:
    """How long a chat's prompt is."""
    api = api_of(request)
    ask = _ask(request, api, validated(ChatBody, await api.body(request)))
    count = len((await ask.render()).ids)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})


def _ask(request: Request, api: Api, body: ChatBody) -> Ask:
    served = api.models.find(body.model)
    limits = (body.max_completion_tokens, body.max_tokens, body.n_predict)
    max_tokens = next((limit for limit in limits if limit is not None), None)
    if max_tokens == 0:
        raise bad("expected at least one token", "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad("expected logprobs: true beside it", "top_logprobs")
    top = (body.top_logprobs or 0) if body.logprobs else None
    return Ask(
        served, dialogue_of(body), sampling(body, served, max_tokens, top), request_id(request),
        client(request, body.prompt_cache_key, body.user), scope(request, api), body.n or 1,
        bool(body.stream),
    )  # fmt: skip


def dialogue_of(body: ChatBody) -> Dialogue:
    """The meaning of a chat."""
    known = tools(body.tools)
    choice, known = tool_choice(body.tool_choice, known)
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None and body.reasoning_effort not in EFFORTS:
        raise bad(f"expected one of {', '.join(EFFORTS)}", "reasoning_effort")
    if body.reasoning_effort not in (None, "none"):
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    return Dialogue(
        arranged(turns(body.messages), "messages"), known, choice,
        body.parallel_tool_calls is not False, one_rule(body), _thinking(body), variables,
    )  # fmt: skip


def _thinking(body: ChatBody) -> bool | None:
    if body.enable_thinking is not None:
        return body.enable_thinking
    if body.thinking is not None:
        kind = body.thinking.get("type")
        if kind not in ("enabled", "disabled", "adaptive", "auto"):
            raise bad("expected enabled, disabled or adaptive", "thinking.type")
        return {"enabled": True, "disabled": False}.get(kind)
    return None if body.reasoning_effort is None else body.reasoning_effort != "none"


def usage_of(usage: Usage, reasoning: int = 0) -> dict[str, Any]:
    """As chat completions and completions have it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.generated,
        "total_tokens": usage.prompt + usage.generated,
        "prompt_tokens_details": {"cached_tokens": usage.cached_memory + usage.cached_disk},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@dataclass
class ChatWriter:
    """Writes chat completions."""

    served: Served
    n: int
    logprobs: bool
    include_usage: bool

    def __post_init__(self) -> None:
        self._id, self._created = new_id("chatcmpl-"), now()
        self._texts = self.served.tokens

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self.served.name,
            "system_fingerprint": self.served.engine.info.fingerprint,
        }  # fmt: skip

    def whole(self, events: list[Event]) -> dict[str, Any]:
        """The answer as one object."""
        found = by_choice(events, self.n)
        ends = [blocks.finish for blocks in found if blocks.finish is not None]
        usage = total([end.usage for end in ends])
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(i, blocks) for i, blocks in enumerate(found)],
            "usage": usage_of(usage, sum(end.reasoning for end in ends)),
            "timings": timings(usage),
        }

    def _choice(self, index: int, blocks: Blocks) -> dict[str, Any]:
        text, reasoning, calls = blocks.text("text"), blocks.text("reasoning"), blocks.calls()
        message: dict[str, Any] = {"role": "assistant", "refusal": None}
        message["content"] = text if text or not calls else None
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function",
                 "function": {"name": call.name, "arguments": call.text}}
                for call in calls
            ]  # fmt: skip
        scored = [item for block in blocks.all for item in block.logprobs]
        logprobs = {"content": self._texts.entries(scored), "refusal": None}
        return {
            "index": index, "message": message, "logprobs": logprobs if self.logprobs else None,
            "finish_reason": blocks.finish.reason if blocks.finish else "stop",
        }  # fmt: skip

    async def stream(self, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
        """Chunks: a role at admission, deltas, the end, usage where it is asked for, [DONE]."""
        ends: list[Finish] = []
        async for item in events:
            if isinstance(item, Started):
                for choice in range(self.n):
                    yield self._chunk(choice, {"role": "assistant", "content": None})
                continue
            last = isinstance(item, Finish)
            if isinstance(item, Finish):
                ends.append(item)
            more = {}
            if last and len(ends) == self.n:
                more["timings"] = timings(total([end.usage for end in ends]))
            yield self._chunk(item.choice, _delta(item), item, more)
        if self.include_usage:
            usage = usage_of(total([e.usage for e in ends]), sum(e.reasoning for e in ends))
            head = self._head("chat.completion.chunk")
            yield event({**head, "choices": [], "usage": usage})
        yield event("[DONE]")

    def _chunk(
        self, choice: int, delta: Mapping[str, Any], item: Event | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:  # fmt: skip
        logprobs = None
        if self.logprobs and isinstance(item, Text):
            logprobs = {"content": self._texts.entries(item.logprobs), "refusal": None}
        reason = item.reason if isinstance(item, Finish) else None
        one = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self.include_usage else {}
        head = self._head("chat.completion.chunk")
        return event({**head, "choices": [one], **usage, **(more or {})})

    def failed(self, error: ApiError) -> bytes:
        """The error as data; the stream ends behind it."""
        return event(error.openai())

    def ping(self) -> bytes:
        """A comment, which clients skip."""
        return COMMENT


def _delta(item: Event) -> dict[str, Any]:
    """What an event adds to a message. Only the first of a call has id, type and name."""
    if isinstance(item, Text):
        return {"content": item.text}
    if isinstance(item, Reasoning):
        return {"reasoning_content": item.text}
    if isinstance(item, CallStart):
        function = {"name": item.name, "arguments": ""}
        call = {"index": item.index, "id": item.id, "type": "function", "function": function}
        return {"tool_calls": [call]}
    if isinstance(item, CallArguments):
        return {"tool_calls": [{"index": item.index, "function": {"arguments": item.text}}]}
    return {}
