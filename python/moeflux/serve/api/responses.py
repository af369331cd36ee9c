"""OpenAI's /v1/responses, without anything stored."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..answer import Ask, Served, timings
from ..blocks import Block, Blocks, by_choice
from ..engine import Usage
from ..events import Event, Finish, Started, Text
from ..http.errors import ApiError, bad
from ..http.limits import new_id
from ..http.sse import event
from .common import answer, api_of, client, now, request_id, scope
from .responses_content import ToolNames, dialogue_of, sealed
from .schema.fields import sampling, validated
from .schema.responses import ResponsesBody

PREFIXES = {"text": "msg_", "reasoning": "rs_", "call": "fc_"}
LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"


def _ask(
    request: Request, served: Served, body: ResponsesBody, warnings: list[str]
) -> tuple[Ask, ToolNames]:
    api = api_of(request)
    if body.max_output_tokens == 0:
        raise bad("expected at least one token", "max_output_tokens")
    dialogue, names = dialogue_of(body, warnings)
    wants = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    chosen = sampling(body, served, body.max_output_tokens,
                      (body.top_logprobs or 0) if wants else None)  # fmt: skip
    whose = client(request, body.prompt_cache_key, body.user)
    ask = Ask(served, dialogue, chosen, request_id(request), whose, scope(request, api),
              streamed=bool(body.stream))  # fmt: skip
    return ask, names


async def responses(request: Request) -> Response:
    """Answers an input."""
    api = api_of(request)
    raw = await api.body(request)
    body = validated(ResponsesBody, raw)
    served = api.models.find(body.model)
    warnings: list[str] = []
    ask, names = _ask(request, served, body, warnings)
    await ask.render()
    writer = ResponseWriter(served, raw, names, ask.sampling.top_logprobs is not None)
    return await answer(request, api, ask, writer, warnings)


async def input_tokens(request: Request) -> Response:
    """How long the prompt of an input is."""
    api = api_of(request)
    body = validated(ResponsesBody, await api.body(request))
    ask, _ = _ask(request, api.models.find(body.model), body, [])
    count = len((await ask.render()).ids)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count})


def _usage(usage: Usage, reasoning: int) -> dict[str, Any]:
    cached = usage.cached_memory + usage.cached_disk
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage.generated,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage.prompt + usage.generated,
    }


@dataclass
class ResponseWriter:
    """Writes responses. Every event has the next sequence number, those of silence, too."""

    served: Served
    asked: Mapping[str, Any]
    names: ToolNames
    logprobs: bool
    _sequence: int = field(default=0, init=False)
    _ids: list[str] = field(default_factory=list, init=False)  # of the items

    def __post_init__(self) -> None:
        self._id, self._created = new_id("resp_"), now()
        self._seal = SEALED in (self.asked.get("include") or ())

    def _response(
        self, status: str, blocks: Blocks | None = None, error: ApiError | None = None
    ) -> dict[str, Any]:
        """The response as it is now."""
        asked, end = self.asked, blocks.finish if blocks else None
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        failure = {"code": "server_error", "message": error.message} if error else None
        given = {
            key: asked.get(key)
            for key in ("instructions", "max_output_tokens", "metadata", "temperature", "top_p",
                        "top_logprobs", "user", "prompt_cache_key")
        }  # fmt: skip
        parallel = asked.get("parallel_tool_calls")
        found = {
            **given, "id": self._id, "object": "response", "created_at": self._created,
            "model": self.served.name, "status": status, "error": failure,
            "incomplete_details": cut, "output": self._output(blocks, status),
            "parallel_tool_calls": True if parallel is None else parallel,
            "tool_choice": asked.get("tool_choice") or "auto", "tools": asked.get("tools") or [],
            "text": asked.get("text") or {"format": {"type": "text"}},
            "reasoning": asked.get("reasoning") or {"effort": None, "summary": None},
            "truncation": "disabled", "store": False, "background": False,
            "previous_response_id": None, "service_tier": "default",
            "usage": _usage(end.usage, end.reasoning) if end else None,
        }  # fmt: skip
        return found | ({"timings": timings(end.usage)} if end else {})

    def _output(self, blocks: Blocks | None, status: str) -> list[dict[str, Any]]:
        found = blocks.all if blocks else []
        state = "completed" if status == "completed" else "incomplete"
        return [self._item(i, b, state if b is found[-1] else "completed")
                for i, b in enumerate(found)]  # fmt: skip

    def _item(self, index: int, block: Block, status: str) -> dict[str, Any]:
        """An item of the output; while it is in progress it is empty."""
        if index == len(self._ids):
            self._ids.append(new_id(PREFIXES[block.kind]))
        done = status != "in_progress"
        head = {"id": self._ids[index], "status": status}
        if block.kind == "text":
            content = [self._part(block)] if done else []
            return {**head, "type": "message", "role": "assistant", "content": content}
        if block.kind == "reasoning":
            item = {**head, "type": "reasoning", "summary": [],
                    "content": [self._part(block)] if done else []}  # fmt: skip
            return item | ({"encrypted_content": sealed(block.text)} if self._seal and done else {})
        text = block.text if done else ""
        space, name = self.names.namespaced.get(block.name, (None, block.name))
        call = {**head, "call_id": block.id, "name": name}
        if block.name in self.names.custom:
            call |= {"type": "custom_tool_call", "input": _custom_input(text)}
        else:
            call |= {"type": "function_call", "arguments": text}
        return call | ({"namespace": space} if space else {})

    def _part(self, block: Block, empty: bool = False) -> dict[str, Any]:
        text = "" if empty else block.text
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        logprobs = [] if empty else self.served.tokens.entries(block.logprobs)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def whole(self, events: list[Event]) -> dict[str, Any]:
        """The response."""
        blocks = by_choice(events, 1)[0]
        return self._response(_status(blocks), blocks)

    async def stream(self, events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
        """created, in_progress, the items, and how it ended."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self.ping()
        blocks = Blocks()
        opened = False
        async for item in events:
            if isinstance(item, Started):
                continue
            at = len(blocks.all) - 1
            block, new, more = blocks.add(item)
            if opened and (new or isinstance(item, Finish)):
                for data in self._close(at, blocks.all[at], _item_status(item)):
                    yield data
                opened = False
            if block is not None and new:
                opened = True
                for data in self._open(len(blocks.all) - 1, block):
                    yield data
            if block is not None and more and block.name not in self.names.custom:
                yield self._delta(len(blocks.all) - 1, block, more, item)
        status = _status(blocks)
        yield self._event(f"response.{status}", response=self._response(status, blocks))

    def _open(self, at: int, block: Block) -> list[bytes]:
        item = self._item(at, block, "in_progress")
        found = [self._event("response.output_item.added", output_index=at, item=item)]
        if block.kind != "call":
            found.append(self._of_part("response.content_part.added", at,
                                       part=self._part(block, empty=True)))  # fmt: skip
        return found

    def _delta(self, at: int, block: Block, more: str, item: Event) -> bytes:
        if block.kind == "call":
            return self._of_item("response.function_call_arguments.delta", at, delta=more)
        if block.kind == "reasoning":
            return self._of_part("response.reasoning_text.delta", at, delta=more)
        scored = self.served.tokens.entries(item.logprobs) if isinstance(item, Text) else []
        return self._of_part("response.output_text.delta", at, delta=more, logprobs=scored)

    def _close(self, at: int, block: Block, status: str) -> list[bytes]:
        found = []
        if block.name in self.names.custom:
            text = _custom_input(block.text)
            found.append(self._of_item("response.custom_tool_call_input.delta", at, delta=text))
            found.append(self._of_item("response.custom_tool_call_input.done", at, input=text))
        elif block.kind == "call":
            found.append(self._of_item("response.function_call_arguments.done", at,
                                       name=block.name, arguments=block.text))  # fmt: skip
        else:
            kind = "output_text" if block.kind == "text" else "reasoning_text"
            scored = {"logprobs": self.served.tokens.entries(block.logprobs)}
            more = scored if block.kind == "text" else {}
            found.append(self._of_part(f"response.{kind}.done", at, text=block.text, **more))
            found.append(self._of_part("response.content_part.done", at, part=self._part(block)))
        item = self._item(at, block, status)
        found.append(self._event("response.output_item.done", output_index=at, item=item))
        return found

    def _of_item(self, kind: str, at: int, **data: Any) -> bytes:
        return self._event(kind, item_id=self._ids[at], output_index=at, **data)

    def _of_part(self, kind: str, at: int, **data: Any) -> bytes:
        return self._of_item(kind, at, content_index=0, **data)

    def _event(self, kind: str, **data: Any) -> bytes:
        number, self._sequence = self._sequence, self._sequence + 1
        return event({"type": kind, "sequence_number": number, **data}, kind)

    def failed(self, error: ApiError) -> bytes:
        """response.failed; the stream ends behind it."""
        return self._event("response.failed", response=self._response("failed", error=error))

    def ping(self) -> bytes:
        """response.in_progress: comments do not keep Codex waiting."""
        return self._event("response.in_progress", response=self._response("in_progress"))


def _status(blocks: Blocks) -> str:
    return "incomplete" if blocks.finish and blocks.finish.reason == "length" else "completed"


def _item_status(item: Event) -> str:
    cut = isinstance(item, Finish) and item.reason == "length"
    return "incomplete" if cut else "completed"


def _custom_input(text: str) -> str:
    """The text within {"input": ...}; what is no such object as it is."""
    try:
        found = json.loads(text)["input"]
    except (ValueError, KeyError, TypeError):
        return text
    return found if isinstance(found, str) else text
