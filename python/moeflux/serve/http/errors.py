"""`ApiError`, and the shape that each dialect gives to an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ...errors import MoefluxError, SessionError, TemplateError
from ..engine import Busy, Late

# Types of errors by status: OpenAI's and Anthropic's.
TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("timeout_error", "timeout_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    500: ("server_error", "api_error"),
    501: ("not_implemented_error", "invalid_request_error"),
    503: ("overloaded_error", "overloaded_error"),
    504: ("timeout_error", "timeout_error"),
}
OVERLOADED = 529  # what Anthropic has for 503


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: a sentence for people.
        param: the path of the field to blame, such as "messages[2].role".
        code: a word for programs, such as "context_length_exceeded".
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message.encode("utf-8", "replace").decode()
        self.param, self.code, self.headers = param, code, dict(headers or {})

    def openai(self) -> dict[str, Any]:
        """As /v1/chat/completions, /v1/completions and /v1/responses say it."""
        kind = TYPES.get(self.status, TYPES[400])[0]
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def anthropic(self, request_id: str | None = None) -> dict[str, Any]:
        """As /v1/messages says it; the field is in the sentence."""
        kind = TYPES.get(self.status, TYPES[400])[1]
        message = f"{self.param}: {self.message}" if self.param else self.message
        error = {"type": "error", "error": {"type": kind, "message": message}}
        return error | ({"request_id": request_id} if request_id else {})


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of any error; the insides of the unexpected stay in the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(503, str(error), code="overloaded",
                        headers={"Retry-After": str(error.retry_after)})  # fmt: skip
    if isinstance(error, Late):
        return ApiError(504, str(error), code="request_timeout")
    if isinstance(error, SessionError | TemplateError):
        return bad(str(error))
    if isinstance(error, MoefluxError):
        return ApiError(500, str(error), code="engine_error")
    return ApiError(500, "the server failed; its log says why", code="internal_error")


def is_anthropic(path: str) -> bool:
    """Whether a path is of Anthropic's dialect."""
    return path.removeprefix("/v1").startswith("/messages")


def error_response(error: ApiError, path: str, request_id: str) -> Response:
    """The whole answer, in the dialect of the path."""
    status = error.status
    if is_anthropic(path):
        body = error.anthropic(request_id)
        status = OVERLOADED if status == 503 else status
    else:
        body = error.openai()
    return Response(json.dumps(body), status, error.headers, "application/json")
