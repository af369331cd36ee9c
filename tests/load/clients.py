"""Clients of a server: a question in each dialect, and what was answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

TOKENS = 24
WORDS = (
    "import os",
    "def f(x):",
    "The list",
    "class A:",
    "for i in",
    "x = [1, 2",
    "try:",
    "return",
)
DIALECTS = ("completions", "chat", "messages", "responses")
PATHS = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}


class Failed(Exception):
    """The server said that it could not, as its API says so."""


def question(number: int, stream: bool, tokens: int = TOKENS) -> tuple[str, dict[str, Any]]:
    """The path and the body of question `number`: the same is asked by the same number."""
    dialect = DIALECTS[number % len(DIALECTS)]
    text = f"{WORDS[number % 7]} {WORDS[number % 8]} {number}"
    messages = [{"role": "user", "content": text}]
    seeded = {"temperature": 0.8, "seed": number}
    body = {
        "completions": {"prompt": text, "max_tokens": tokens, **seeded},
        "chat": {"messages": messages, "max_tokens": tokens, **seeded},
        "messages": {"messages": messages, "max_tokens": tokens, "temperature": 0},
        "responses": {"input": messages, "max_output_tokens": tokens, "temperature": 0},
    }[dialect]
    return PATHS[dialect], body | {"model": "demo", "stream": stream}


def piece(event: dict[str, Any]) -> str:
    """The text of an event of any dialect."""
    kind = event.get("type", "")
    if "error" in event or kind in ("error", "response.failed"):
        raise Failed(json.dumps(event))
    if kind == "response.output_text.delta":
        return event["delta"]
    if kind == "content_block_delta":
        return event["delta"]["text"]
    choice = (event.get("choices") or [{}])[0]
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


def whole(answer: dict[str, Any]) -> str:
    """The text of an answer of any dialect that came in one piece."""
    if "choices" in answer:
        choice = answer["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    parts = answer["content"] if "content" in answer else answer["output"][0]["content"]
    return "".join(part["text"] for part in parts)


@asynccontextmanager
async def events(
    client: httpx2.AsyncClient, number: int, tokens: int = TOKENS
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of question `number`'s stream."""
    path, body = question(number, True, tokens)
    async with client.stream("POST", path, json=body) as answer:
        if answer.status_code != 200:
            raise Failed((await answer.aread()).decode())
        yield (
            json.loads(line[6:])
            async for line in answer.aiter_lines()
            if line.startswith("data: {")
        )


async def say(client: httpx2.AsyncClient, number: int, stream: bool, tokens: int = TOKENS) -> str:
    """The answer to question `number`.

    Raises:
        Failed: the server told an error.
    """
    if stream:
        async with events(client, number, tokens) as found:
            return "".join([piece(event) async for event in found])
    path, body = question(number, False, tokens)
    answer = await client.post(path, json=body)
    if answer.status_code != 200:
        raise Failed(answer.text)
    return whole(answer.json())
