"""What is served and how it does; text to tokens and back."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ..answer import Served
from ..dialogue import Dialogue, arranged
from ..engine import Health
from ..http.errors import ApiError, bad
from .common import api_of
from .content import tools, turns
from .schema.fields import validated
from .schema.openai import ChatBody, DetokenizeBody, TokenizeBody

DOWN = ("loading", "draining", "failed")


async def index(request: Request) -> Response:
    """A page that says what this is. Agents ask for its head to see whether a server is there."""
    names = ", ".join(api_of(request).models.served)
    return PlainTextResponse(f"moeflux serves {names}. Base URL for OpenAI's clients: /v1, for "
                             "Anthropic's: /.\n")  # fmt: skip


async def health(request: Request) -> Response:
    """Whether requests are taken: 200, or 503 while models load, drain or have failed."""
    found = {name: s.engine.health() for name, s in api_of(request).models.served.items()}
    worst = max(found.values(), key=_badness, default=Health("loading"))
    body: dict[str, Any] = {
        "status": worst.state,
        "models": {name: vars(state) for name, state in found.items()},
    }
    return JSONResponse(body, 503 if worst.state in DOWN else 200)


def _badness(state: Health) -> int:
    return ("ok", "degraded", *DOWN).index(state.state)


def _entry(served: Served) -> dict[str, Any]:
    """As OpenAI has a model, and as Anthropic does: clients of either skip the other's fields."""
    info, created = served.engine.info, datetime.fromtimestamp(served.created, timezone.utc)
    return {
        "id": served.name, "object": "model", "created": served.created, "owned_by": "moeflux",
        "type": "model", "display_name": served.name, "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active", "max_input_tokens": info.context, "max_tokens": info.context,
        "meta": {"context": info.context, "n_params": info.parameters, "memory": info.memory_bytes},
    }  # fmt: skip


async def models(request: Request) -> Response:
    """The models."""
    data = [_entry(served) for served in api_of(request).models.served.values()]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return JSONResponse({"object": "list", "data": data, "has_more": False, **ends})


async def model(request: Request) -> Response:
    """One of them."""
    name = request.path_params["name"]
    return JSONResponse(_entry(api_of(request).models.find(name, default=False)))


async def tokenize(request: Request) -> Response:
    """Token ids of a text or a chat."""
    api = api_of(request)
    raw = await api.body(request)
    body = validated(TokenizeBody, raw)
    served = api.models.find(body.model)
    if body.messages is not None:
        dialogue = _dialogue(raw)
        ids = (await asyncio.to_thread(served.renderer.render, dialogue)).ids
    else:
        ids = await asyncio.to_thread(_encode, served, body)
    answer: dict[str, Any] = {
        "tokens": ids, "count": len(ids), "max_model_len": served.engine.info.context,
    }  # fmt: skip
    texts = served.tokens
    if body.return_token_strs:
        answer["token_strs"] = [texts.of(token)[0] for token in ids]
    if body.with_pieces:
        answer["tokens"] = [{"id": token, "piece": _piece(served, token)} for token in ids]
    return JSONResponse(answer)


def _piece(served: Served, token: int) -> Any:
    text, raw = served.tokens.of(token)
    return list(raw) if "\N{REPLACEMENT CHARACTER}" in text else text


def _encode(served: Served, body: TokenizeBody) -> list[int]:
    """As vLLM (special tokens unless told not to) or llama.cpp (only if told to) reads it."""
    if body.prompt is not None:
        text, special = body.prompt, body.add_special_tokens is not False
    elif body.content is not None:
        text, special = body.content, body.add_special
    else:
        raise bad("expected a content, a prompt or messages", "prompt")
    found: list[int] = served.renderer.tokenizer.encode(text, add_special_tokens=special)
    return found


def _dialogue(raw: dict[str, Any]) -> Dialogue:
    body = validated(ChatBody, raw)
    return Dialogue(arranged(turns(body.messages), "messages"), tools(body.tools),
                    thinking=body.enable_thinking, variables=body.chat_template_kwargs or {},
                    )  # fmt: skip


async def detokenize(request: Request) -> Response:
    """The text of token ids."""
    api = api_of(request)
    body = validated(DetokenizeBody, await api.body(request))
    served = api.models.find(body.model)
    vocab = served.engine.info.vocab_size
    if not all(token < vocab for token in body.tokens):
        raise bad(f"expected token ids below {vocab}", "tokens")
    text = served.renderer.tokenizer.decode(body.tokens, skip_special_tokens=False)
    return JSONResponse({"prompt": text, "content": text})


async def apply_template(request: Request) -> Response:
    """The prompt that a chat becomes."""
    api = api_of(request)
    raw = await api.body(request)
    served = api.models.find(validated(TokenizeBody, raw).model)
    text = await asyncio.to_thread(served.renderer.text, _dialogue(raw))
    return JSONResponse({"prompt": text})


async def tokenizer_info(request: Request) -> Response:
    """What lm-eval's remote tokenizer asks for."""
    served = next(iter(api_of(request).models.served.values()))
    tokenizer = served.renderer.tokenizer
    named = tokenizer.named_tokens
    return JSONResponse({
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: named.get(key) for key in ("bos_token", "eos_token", "pad_token", "unk_token")},
        "chat_template": tokenizer.chat_template,
        "model_max_length": served.engine.info.context,
    })  # fmt: skip


async def not_done(request: Request) -> Response:
    """Endpoints of OpenAI's that a causal model has no answer for."""
    raise ApiError(501, f"{request.url.path} needs a model of embeddings; this one is causal")
