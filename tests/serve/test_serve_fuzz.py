"""Random requests made from the OpenAPI document, valid and not: no 5xx, no hang, and an answer of
the dialect's shape. Half go to a server of a real model, half to one that calls tools by script.
MOEFLUX_FULL=1 sends 10,000 of them.
"""

import asyncio
import json
import os
from collections import Counter
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moeflux
from moeflux.serve.app import GETS, POSTS, create_app
from moeflux.serve.engine import Health
from moeflux.serve.local import EngineSettings, LocalEngine
from moeflux.serve.settings import Settings
from serve.asking import CALL, app_of, http
from serve.described import described
from serve.scripted import ScriptedEngine

DESCRIPTION = app_of(ScriptedEngine()).openapi()
OPERATIONS = sorted(
    (path, method)
    for path, methods in DESCRIPTION["paths"].items()
    for method in methods
    if (path.startswith("/v1/") or f"/v1{path}" not in DESCRIPTION["paths"])
    and "embeddings" not in path  # 501, always
)
POSTED = sum(method == "post" for _, method in OPERATIONS)  # the others have few requests, or one
REQUESTS = 10_000 if os.environ.get("MOEFLUX_FULL") == "1" else 400
HANGS = 120  # seconds: no request takes as long on a machine that does other things, too
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
GOOD = st.fixed_dictionaries({
    "messages": MESSAGES, "input": MESSAGES | TEXTS, "max_tokens": st.integers(1, 30),
    "prompt": TEXTS | IDS, "tokens": IDS,
})  # fmt: skip
WRONG = st.builds(
    lambda base, more: {**base, **more},
    GOOD, st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4),
)  # fmt: skip


def body_of(operation):
    """Bytes of a body: described, described with messages that are some, wrong, or damaged."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    name = schema["$ref"].rsplit("/", 1)[1]
    fits = described(DESCRIPTION["components"]["schemas"][name], VALUES)
    bodies = st.one_of(st.builds(lambda one, good: {**one, **good}, fits, GOOD), fits, WRONG).map(
        lambda body: json.dumps(body).encode("utf-8", "surrogatepass")
    )
    cut = st.builds(
        lambda body, at, byte: body[: at % len(body)] + byte + body[at % len(body) + 1 :],
        bodies, st.integers(0, 1 << 16), st.binary(max_size=2),
    )  # fmt: skip
    return st.one_of(bodies, bodies, bodies, cut)


def request_of(path, method):
    """(path, body or None) of a random request for an operation."""
    paths = st.just(path)
    if "{" in path:
        names = st.sampled_from(["demo-chat", "..", "a/b"]) | TEXTS.filter(bool)
        paths = names.map(lambda name: path.split("{")[0] + quote(name, safe="/"))
    operation = DESCRIPTION["paths"][path][method]
    return st.tuples(paths, body_of(operation) if method == "post" else st.none())


def real():
    """The chat demo. Its context holds a few turns: most of the time goes into its tokens."""
    model = moeflux.load("demo-chat", memory="24MiB", context=128)
    return LocalEngine(model, "demo-chat", EngineSettings())


def scripted():
    """Thinks, answers and calls a tool, whatever it is asked."""
    return ScriptedEngine({"": f"<think>Hm.</think>Yes.{CALL}"}, context=2048)


@pytest.fixture(scope="module", params=[real, scripted])
def send(request):
    """Sends requests to a server, which at the end is well and computes nothing."""
    loop, counts = asyncio.new_event_loop(), Counter()

    async def start():
        engine = request.param()
        return engine, http(create_app({engine.info.name: engine}, Settings()))

    engine, client = loop.run_until_complete(start())

    def go(method, path, body):
        headers = {"content-type": "application/json"} if body is not None else {}
        asked = client.request(method, path, content=body, headers=headers)
        answer = loop.run_until_complete(asyncio.wait_for(asked, HANGS))
        counts[answer.status_code] += 1
        return answer

    yield go
    print(f"{counts.total()} to {request.param.__name__}: {dict(sorted(counts.items()))}")
    for _ in range(100):
        if engine.health() == Health():
            break
        loop.run_until_complete(asyncio.sleep(0.1))
    well = engine.health()
    loop.run_until_complete(engine.drain(0))
    loop.close()
    assert well == Health()
    assert counts[200] > counts[400] / 5  # so what is valid by the document is


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
@given(data=st.data())
@settings(
    max_examples=-(-REQUESTS // POSTED // 2), deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_no_request_is_the_servers_fault(path, method, data, send):
    asked, body = data.draw(request_of(path, method))
    answer = send(method, asked, body)
    assert answer.status_code in ((200, 400) if method == "post" else (200, 404)), answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        wanted = {400: "invalid_request_error", 404: "not_found_error"}[answer.status_code]
        assert error["message"] and error["type"] == wanted
    elif method == "post":
        assert '"error":' not in answer.text.replace('"error":null', "").replace(
            '"error": null', ""
        ), answer.text


def test_the_description_of_the_api_has_every_path():
    assert {path for paths in GETS for path in paths} <= {
        path.replace("{name}", "{name:path}") for path in DESCRIPTION["paths"]
    }


def test_the_description_of_the_api_has_every_body():
    for paths, (_, body) in POSTS.items():
        for path in paths:
            operation = DESCRIPTION["paths"][path]["post"]
            if body is not None:
                content = operation["requestBody"]["content"]["application/json"]
                name = content["schema"]["$ref"].rsplit("/", 1)[1]
                assert DESCRIPTION["components"]["schemas"][name]["properties"].keys() == set(
                    body.model_fields
                )
