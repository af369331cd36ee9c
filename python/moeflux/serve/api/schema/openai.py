"""Bodies of /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from .fields import Body, Ruled, Unlimited

Objects = list[dict[str, Any]]


class ChatBody(Ruled):
    """A chat."""

    messages: Objects
    max_tokens: Unlimited = None
    max_completion_tokens: Unlimited = None
    n_predict: Unlimited = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[Objects, Field(max_length=4096)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(Ruled):
    """Texts that are gone on with."""

    prompt: str | list[Any]
    max_tokens: Unlimited = 16
    n_predict: Unlimited = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False
    suffix: str | None = None
    best_of: int | None = None


class TokenizeBody(Body):
    """A text, as llama.cpp (content) or vLLM (prompt) name it, or a chat."""

    content: str | None = None
    prompt: str | None = None
    messages: Objects | None = None
    tools: Objects | None = None
    add_special: bool = False
    add_special_tokens: bool | None = None
    with_pieces: bool = False
    return_token_strs: bool | None = False
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeBody(Body):
    """Token ids."""

    tokens: list[Annotated[int, Field(ge=0)]]
