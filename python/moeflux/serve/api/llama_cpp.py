"""What tools that know llama.cpp's server read of it, as far as it has a meaning here."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ... import __version__
from ..answer import Served
from ..engine import Sampling
from ..http.errors import ApiError
from .common import api_of


async def props(request: Request) -> Response:
    """What the first model is and how it samples where a request does not say."""
    served = next(iter(api_of(request).models.served.values()))
    info, tokenizer = served.engine.info, served.renderer.tokenizer
    chosen = Sampling(**info.defaults)
    named = tokenizer.named_tokens
    params = {
        "n_predict": -1, "seed": -1, "temperature": chosen.temperature, "top_k": chosen.top_k,
        "top_p": chosen.top_p, "min_p": chosen.min_p, "repeat_penalty": chosen.repetition_penalty,
        "presence_penalty": chosen.presence_penalty, "frequency_penalty": chosen.frequency_penalty,
    }  # fmt: skip
    return JSONResponse({
        "default_generation_settings": {"n_ctx": info.context, "params": params},
        "total_slots": len(_slots(served)),
        "model_alias": info.name,
        "model_path": info.name,  # where it lies is no client's business
        "modalities": {"vision": False, "audio": False},
        "chat_template": tokenizer.chat_template,
        "bos_token": named.get("bos_token"),
        "eos_token": named.get("eos_token"),
        "build_info": f"moeflux-{__version__}",
        "is_sleeping": False,
    })  # fmt: skip


async def slots(request: Request) -> Response:
    """The choices that run on the first model, without what they say.

    Raises:
        ApiError: 503 where others wait and the query has `fail_on_no_slot`.
    """
    served = next(iter(api_of(request).models.served.values()))
    if request.query_params.get("fail_on_no_slot") and served.engine.health().waiting:
        raise ApiError(503, "no slot is free", code="overloaded")
    return JSONResponse(_slots(served))


def _slots(served: Served) -> list[dict[str, Any]]:
    """One for each choice that runs, and one that is free where none waits."""
    health = served.engine.health()
    busy = [True] * health.running + [False] * (not health.waiting)
    return [
        {
            "id": i,
            "n_ctx": served.engine.info.context,
            "speculative": False,
            "is_processing": is_busy,
        }
        for i, is_busy in enumerate(busy)
    ]
