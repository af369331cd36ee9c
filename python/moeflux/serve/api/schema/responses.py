"""The body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .fields import Body, Unlimited

Objects = list[dict[str, Any]]


class ResponsesBody(Body):
    """An input that is answered; nothing of it is stored."""

    input: str | Objects
    instructions: str | None = None
    max_output_tokens: Unlimited = None
    tools: Annotated[Objects, Field(max_length=4096)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    include: list[str] | None = None
    truncation: str | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = False
    prompt_cache_key: str | None = None
    user: str | None = None
