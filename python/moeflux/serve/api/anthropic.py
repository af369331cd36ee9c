"""Anthropic's /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Ask, Served, timings
from ..blocks import Block, Blocks, by_choice
from ..engine import Usage
from ..events import Event, Finish, Started
from ..http.errors import ApiError
from ..http.limits import new_id
from ..http.sse import event
from .anthropic_content import dialogue_of
from .common import answer, api_of, client, request_id, scope
from .schema.anthropic import CountBody, MessagesBody
from .schema.fields import sampling, validated

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
SIGNATURE = "moeflux"  # reasoning is not signed here; clients want the field


async def messages(request: Request) -> Response:
    """Answers with a message."""
    api = api_of(request)
    body = validated(MessagesBody, await api.body(request))
    served = api.models.find(body.model)
    warnings: list[str] = []
    user = (body.metadata or {}).get("user_id")
    ask = Ask(
        served, dialogue_of(body, warnings),
        sampling(body, served, body.max_tokens, None, stop=tuple(body.stop_sequences or ())),
        request_id(request), client(request, user if isinstance(user, str) else None),
        scope(request, api),
        streamed=bool(body.stream), call_prefix="toolu_",
    )  # fmt: skip
    for name in ("mcp_servers", "container"):
        if getattr(body, name):
            warnings.append(f"{name} is left out: no server runs it here")
    await ask.render()
    return await answer(request, api, ask, MessageWriter(served), warnings)


async def count_tokens(request: Request) -> Response:
    """How long a prompt is."""
    api = api_of(request)
    body = validated(CountBody, await api.body(request))
    served = api.models.find(body.model)
    ask = Ask(served, dialogue_of(body, []), sampling(body, served, 1, None), request_id(request))
    return JSONResponse({"input_tokens": len((await ask.render()).ids)})


def _usage(usage: Usage) -> dict[str, Any]:
    """input_tokens leaves out what was cached."""
    cached = usage.cached_memory + usage.cached_disk
    return {
        "input_tokens": usage.prompt - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.generated,
    }


@dataclass
class MessageWriter:
    """Writes messages."""

    served: Served
    _open: int | None = field(default=None, init=False)  # index of the block that is open

    def __post_init__(self) -> None:
        self._id = new_id("msg_")

    def _message(self, content: list[Any], usage: Usage, end: Finish | None) -> dict[str, Any]:
        return {
            "id": self._id, "type": "message", "role": "assistant", "model": self.served.name,
            "content": content, **_stop(end), "usage": _usage(usage),
        }  # fmt: skip

    def whole(self, events: list[Event]) -> dict[str, Any]:
        """The message."""
        blocks = by_choice(events, 1)[0]
        usage = blocks.finish.usage if blocks.finish else Usage()
        content = [_block(block, whole=True) for block in blocks.all]
        return {**self._message(content, usage, blocks.finish), "timings": timings(usage)}

    async def stream(self, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
        """message_start, the blocks, message_delta, message_stop."""
        blocks = Blocks()
        async for item in events:
            if isinstance(item, Started):
                message = self._message([], item.usage, None)
                yield _event("message_start", message=message)
                continue
            block, new, more = blocks.add(item)
            if (new or isinstance(item, Finish)) and self._open is not None:
                for data in self._close(blocks.all[self._open]):
                    yield data
            if block is not None and new:
                self._open = len(blocks.all) - 1
                start = _block(block, whole=False)
                yield _event("content_block_start", index=self._open, content_block=start)
            if block is not None and more:
                yield self._delta(**_delta(block.kind, more))
            if isinstance(item, Finish):
                yield _event("message_delta", delta=_stop(item), usage=_usage(item.usage),
                             timings=timings(item.usage))  # fmt: skip
        yield _event("message_stop")

    def _close(self, block: Block) -> list[bytes]:
        found = []
        if block.kind == "reasoning":
            found.append(self._delta(type="signature_delta", signature=SIGNATURE))
        found.append(_event("content_block_stop", index=self._open))
        self._open = None
        return found

    def _delta(self, **delta: Any) -> bytes:
        return _event("content_block_delta", index=self._open, delta=delta)

    def failed(self, error: ApiError) -> bytes:
        """The event of an error; the stream ends behind it."""
        return event(error.anthropic(), "error")

    def ping(self) -> bytes:
        """Anthropic's own event for this."""
        return _event("ping")


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)


def _stop(end: Finish | None) -> dict[str, Any]:
    """Why it ended: a stop sequence has a reason of its own."""
    if end is None:
        return {"stop_reason": None, "stop_sequence": None}
    by_text = end.reason == "stop" and end.stop is not None
    reason = "stop_sequence" if by_text else REASONS[end.reason]
    return {"stop_reason": reason, "stop_sequence": end.stop if by_text else None}


def _block(block: Block, whole: bool) -> dict[str, Any]:
    """A block of content; in a stream it begins empty."""
    text = block.text if whole else ""
    if block.kind == "call":
        given = json.loads(text or "{}")
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": given}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": SIGNATURE if whole else ""}
    return {"type": "text", "text": text, "citations": None}


def _delta(kind: str, more: str) -> dict[str, Any]:
    if kind == "call":
        return {"type": "input_json_delta", "partial_json": more}
    if kind == "reasoning":
        return {"type": "thinking_delta", "thinking": more}
    return {"type": "text_delta", "text": more}
