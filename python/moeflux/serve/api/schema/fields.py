"""Fields that bodies share, and how a body is checked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...answer import Served
from ...engine import Sampling
from ...http.errors import bad

MAX_SEED = 2**63 - 1
MAX_STOPS, MAX_STOP_CHARS = 16, 4096
MAX_BIASES = 4096
M = TypeVar("M", bound=BaseModel)


def _minus_one_is_none(value: Any) -> Any:
    return None if value == -1 and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Unlimited = Annotated[
    Annotated[int, Field(ge=0, le=2**31)] | None, BeforeValidator(_minus_one_is_none)
]
Seed = Annotated[
    Annotated[int, Field(ge=0, le=MAX_SEED)] | None, BeforeValidator(_minus_one_is_none)
]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None, BeforeValidator(_as_list)
]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Body(BaseModel):
    """A body; what it does not name is ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    stream: bool | None = False
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None


class Sampled(Body):
    """Fields of chat completions and completions that say how tokens are chosen."""

    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Seed = None
    stop: Stops = None
    n: Annotated[int, Field(ge=1, le=16)] | None = 1
    logit_bias: dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        None, max_length=MAX_BIASES
    )
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Positive | None = None
    repeat_penalty: Positive | None = None
    ignore_eos: bool | None = False
    min_tokens: Annotated[int, Field(ge=0, le=2**31)] | None = 0
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=1024)
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool((self.stream_options or {}).get("include_usage"))


class Ruled(Sampled):
    """Fields of chat completions and completions that say what form the output has."""

    response_format: dict[str, Any] | None = None
    grammar: Annotated[str, Field(max_length=1 << 20)] | None = None
    json_schema: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


def validated(kind: type[M], body: Mapping[str, Any]) -> M:
    """A body as a model. Raises ApiError with the path of the first field that is wrong."""
    try:
        return kind.model_validate(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        known = [part for part in first["loc"] if _is_field(part)]
        raise bad(f"{first['msg']}", path_of(known)) from None


def _is_field(part: int | str) -> bool:
    """Whether a step of a path is of the body; others are of pydantic's alternatives."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("str", "int", "float"))


def path_of(parts: list[int | str]) -> str:
    """messages[2].role of ["messages", 2, "role"]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def sampling(
    body: Body, served: Served, max_tokens: int | None, top_logprobs: int | None, **more: Any
) -> Sampling:
    """How tokens are chosen: the body's word, else the model's own defaults, else ours.

    Raises:
        ApiError: an id is beyond the vocabulary.
    """
    info = served.engine.info
    wanted = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        **more,
    }
    if isinstance(body, Sampled):
        wanted |= {
            "min_p": body.min_p,
            "repetition_penalty": body.repetition_penalty or body.repeat_penalty,
            "presence_penalty": body.presence_penalty,
            "frequency_penalty": body.frequency_penalty,
            "bias": _biases(body.logit_bias, info.vocab_size),
            "seed": body.seed,
            "stop": tuple(body.stop or ()),
            "stop_ids": frozenset(_ids(body.stop_token_ids, info.vocab_size)),
            "ignore_eos": body.ignore_eos,
            "min_tokens": body.min_tokens,
        }
    given = {key: value for key, value in wanted.items() if value is not None}
    given.setdefault("seed", secrets.randbits(48))
    chosen = {**info.defaults, **given}
    return Sampling(**chosen, max_tokens=max_tokens, top_logprobs=top_logprobs)


def _biases(given: Mapping[str, float] | None, vocab: int) -> dict[int, float] | None:
    found = {}
    for key, value in (given or {}).items():
        if not key.isdecimal() or len(key) > 9 or int(key) >= vocab:
            raise bad(f"expected token ids below {vocab}, found {key[:20]!r}", "logit_bias")
        found[int(key)] = value
    return found or None


def _ids(given: list[int] | None, vocab: int) -> list[int]:
    for token in given or ():
        if token >= vocab:
            raise bad(f"expected token ids below {vocab}, found {token}", "stop_token_ids")
    return given or []
