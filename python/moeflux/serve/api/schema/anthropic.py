"""The body of /v1/messages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .fields import Body, Stops

Objects = list[dict[str, Any]]


class CountBody(Body):
    """What a prompt is made of."""

    messages: Objects
    system: str | list[Any] | None = None
    tools: Annotated[Objects, Field(max_length=4096)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


class MessagesBody(CountBody):
    """A message that is asked for."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31)]
    stop_sequences: Stops = None
    metadata: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    container: str | dict[str, Any] | None = None
