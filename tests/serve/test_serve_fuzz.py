"""Random bodies, valid and not: no 5xx, no hang, and an answer of the dialect's shape."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moeflux.serve.app import POSTS
from serve.asking import CALL, app_of, http
from serve.scripted import ScriptedEngine

APP = app_of(ScriptedEngine({"": f"<think>Hm.</think>Yes.{CALL}"}, context=2048))
PATHS = [paths[0] for paths, (_, body) in POSTS.items() if body is not None]
FIELDS = sorted({name for _, body in POSTS.values() if body for name in body.model_fields})
WORDS = st.sampled_from([
    "user", "assistant", "system", "developer", "tool", "text", "input_text", "image_url",
    "function", "function_call", "function_call_output", "tool_use", "tool_result", "thinking",
    "reasoning", "message", "custom", "namespace", "auto", "none", "required", "any", "json_object",
    "json_schema", "enabled", "disabled", "low", "get_weather", "c1", "{}", "hi", "",
    "<|im_end|>", "</think>", "\u0000", "\U0001f600",
])  # fmt: skip
KEYS = st.sampled_from([
    "role", "content", "type", "text", "name", "id", "tool_calls", "tool_call_id", "function",
    "arguments", "parameters", "description", "input", "output", "call_id", "tool_use_id",
    "schema", "json_schema", "format", "effort", "strict", "tools", "thinking", "input_schema",
    "$ref", "mode",
])  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), WORDS, st.text(max_size=4), st.just(2**70),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
IDS = st.lists(st.integers(0, 300), max_size=4)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
CALLS = st.builds(
    lambda i, a: {"id": i, "type": "function", "function": {"name": "get_weather", "arguments": a}},
    st.sampled_from(["c1", "c2"]), st.sampled_from(["{}", '{"city": "x"}', "{"]),
)  # fmt: skip
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "user", "assistant", "tool"]),
            "content": TEXTS | st.lists(st.builds(lambda t: {"type": "text", "text": t}, TEXTS)),
        },
        optional={
            "tool_calls": st.lists(CALLS, max_size=2), "tool_call_id": st.just("c1"),
            "type": st.sampled_from(["message", "reasoning", "function_call"]),
        },
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.builds(
    lambda base, more: {**base, **more},
    st.fixed_dictionaries({
        "messages": MESSAGES, "input": MESSAGES | TEXTS, "max_tokens": st.integers(1, 30),
        "prompt": TEXTS | IDS, "tokens": IDS,
    }),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@given(body=BODIES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_body_is_the_servers_fault(path, body):
    async def go():
        async with http(APP) as client:
            headers = {"content-type": "application/json"}
            content = json.dumps(body).encode("utf-8", "surrogatepass")
            return await asyncio.wait_for(client.post(path, content=content, headers=headers), 20)

    answer = asyncio.run(go())
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        error = answer.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
    else:
        assert '"error":' not in answer.text.replace('"error":null', "").replace(
            '"error": null', ""
        ), answer.text


def test_the_description_of_the_api_has_every_body():
    async def go():
        async with http(APP) as client:
            return (await client.get("/openapi.json")).json()

    found = asyncio.run(go())
    for paths, (_, body) in POSTS.items():
        for path in paths:
            operation = found["paths"][path]["post"]
            if body is not None:
                content = operation["requestBody"]["content"]["application/json"]
                name = content["schema"]["$ref"].rsplit("/", 1)[1]
                assert found["components"]["schemas"][name]["properties"].keys() == set(
                    body.model_fields
                )
