"""`create_app`: the server as an ASGI app. Knows engines by their protocol only."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from .. import __version__
from ..errors import MoefluxError
from .answer import Models
from .api import anthropic, chat, completions, llama_cpp, meta, page, responses
from .api.common import Api
from .api.schema.anthropic import CountBody, MessagesBody
from .api.schema.openai import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from .api.schema.responses import ResponsesBody
from .engine import Engine
from .http.errors import ApiError, as_api_error, error_response
from .http.limits import Gate
from .settings import Settings

logger = logging.getLogger("moeflux.serve")


Handler = Callable[[Request], Awaitable[Response]]
Body = type[BaseModel]


def _both(path: str) -> tuple[str, str]:
    """Some clients leave /v1 out."""
    return f"/v1{path}", path


PAGE: dict[tuple[str, ...], Handler] = {("/",): page.index, ("/page/{name}",): page.file}
NO_PAGE: dict[tuple[str, ...], Handler] = {("/",): meta.index}
GETS: dict[tuple[str, ...], Handler] = {
    ("/health", "/v1/health"): meta.health,
    _both("/models"): meta.models,
    _both("/models/{name:path}"): meta.model,
    ("/tokenizer_info", "/v1/tokenizer_info"): meta.tokenizer_info,
    ("/props",): llama_cpp.props,
    ("/slots",): llama_cpp.slots,
}
POSTS: dict[tuple[str, ...], tuple[Handler, Body | None]] = {
    _both("/chat/completions"): (chat.chat, ChatBody),
    _both("/chat/completions/input_tokens"): (chat.input_tokens, ChatBody),
    _both("/completions"): (completions.completions, CompletionBody),
    _both("/responses"): (responses.responses, ResponsesBody),
    _both("/responses/input_tokens"): (responses.input_tokens, ResponsesBody),
    _both("/messages"): (anthropic.messages, MessagesBody),
    _both("/messages/count_tokens"): (anthropic.count_tokens, CountBody),
    ("/tokenize", "/v1/tokenize"): (meta.tokenize, TokenizeBody),
    ("/detokenize", "/v1/detokenize"): (meta.detokenize, DetokenizeBody),
    ("/apply-template", "/v1/apply-template"): (meta.apply_template, ChatBody),
    _both("/embeddings"): (meta.not_done, None),
}


def create_app(engines: Mapping[str, Engine], settings: Settings) -> FastAPI:
    """The server.

    Args:
        engines: by the name of their model.
        settings: see Settings.

    Returns:
        An ASGI app. Its end drains the engines.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        for engine in engines.values():
            await engine.drain(settings.drain)

    app = FastAPI(title="moeflux", version=__version__, lifespan=lifespan, docs_url=None,
                  redoc_url=None, redirect_slashes=False)  # fmt: skip
    app.state.api = Api(Models(engines, settings), settings)
    for paths, handler in (GETS | (PAGE if settings.page else NO_PAGE)).items():
        for path in paths:
            _add(app, path, handler, "GET", None)
            _add(app, path, handler, "HEAD", None)
    for paths, (handler, body) in POSTS.items():
        for path in paths:
            _add(app, path, handler, "POST", body)
    for kind in (ApiError, MoefluxError, HTTPException, Exception):
        app.add_exception_handler(kind, _failed)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"],
            allow_headers=["*"],
        )  # fmt: skip
    app.add_middleware(Gate, settings=settings)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add(app: FastAPI, path: str, handler: Handler, method: str, body: Body | None) -> None:
    extra: dict[str, Any] = {}
    if body is not None:
        reference = {"$ref": f"#/components/schemas/{body.__name__}"}
        content = {"application/json": {"schema": reference}}
        extra = {"requestBody": {"required": True, "content": content}}
    app.add_api_route(
        path, handler, methods=[method], response_class=Response, response_model=None,
        openapi_extra=extra, include_in_schema=method != "HEAD",
    )  # fmt: skip


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of the API, with the bodies that handlers read by themselves."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for _, body in POSTS.values():
            if body is not None:
                template = "#/components/schemas/{model}"
                schema = body.model_json_schema(ref_template=template)
                schemas |= schema.pop("$defs", {})
                schemas[body.__name__] = schema
    assert app.openapi_schema is not None
    return app.openapi_schema


async def _failed(request: Request, error: Exception) -> Response:
    """Any error, in the shape of the dialect."""
    if isinstance(error, HTTPException):
        words = {404: "nothing is here", 405: f"{request.method} is not for this path"}
        message = f"{words.get(error.status_code, error.detail)}: {request.url.path[:200]}"
        error = ApiError(error.status_code, message, headers=error.headers)
    elif not isinstance(error, ApiError | MoefluxError):
        logger.error("a request failed", exc_info=error)
    return error_response(as_api_error(error), request.url.path, request.state.request_id)
