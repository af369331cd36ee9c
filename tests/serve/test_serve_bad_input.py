"""Bad input and hostile clients: each has an answer of the dialect's shape, 4xx, and names what."""

import asyncio
import json

import pytest

from moeflux.errors import SessionError
from moeflux.serve.app import POSTS
from moeflux.serve.engine import Busy, Health, Late
from moeflux.serve.http.errors import ApiError, as_api_error
from moeflux.serve.http.limits import _unique
from moeflux.serve.settings import Settings
from serve.asking import USER, WEATHER, app_of, ask, events, http
from serve.scripted import FAULT, ScriptedEngine

CHAT, TEXT, CLAUDE, RESPONSES = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses",
)  # fmt: skip
GOOD = {
    CHAT: {"messages": [USER]},
    TEXT: {"prompt": "hi"},
    CLAUDE: {"messages": [USER], "max_tokens": 5},
    RESPONSES: {"input": "hi"},
}
TOOL = {"type": "function", "function": WEATHER}


def tool(**change):
    return {"tools": [{"type": "function", "function": {**WEATHER, **change}}]}


def said(*messages):
    return {"messages": list(messages)}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT_RULES = [
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ""}, "stop[0]"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"logit_bias": {"999": 1}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"stop_token_ids": [999]}, "stop_token_ids"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"seed": 2**80}, "seed"),
    ({"seed": -2}, "seed"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": "hi"}, "messages"),
    (said(), "messages"),
    (said({"role": "robot", "content": "x"}), "messages[0].role"),
    (said({"role": ["user"], "content": "x"}), "messages[0].role"),
    (said({"content": "x"}), "messages[0].role"),
    (said({"role": "user"}), "messages[0].content"),
    (said({"role": "user", "content": 3}), "messages[0].content"),
    (
        said(USER, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
        "messages[1].content[0].type",
    ),
    (
        said({"role": "user", "content": [{"type": "input_audio"}]}),
        "messages[0].content[0].type",
    ),
    (said(USER, {"role": "tool", "tool_call_id": "x", "content": "y"}), "messages[1]"),
    (said(USER, {"role": "tool", "content": "y"}), "messages[1].tool_call_id"),
    (said(USER, {"role": "assistant", "tool_calls": [3]}), "messages[1].tool_calls[0]"),
    (
        said({"role": "assistant", "tool_calls": [
            {"id": "c", "function": {"name": "f", "arguments": "{"}}]}),
        "messages[0].tool_calls[0].arguments",
    ),
    (tool(name="two words"), "tools[0].function.name"),
    (tool(name="</tool_call>"), "tools[0].function.name"),
    (tool(parameters="x"), "tools[0].function.parameters"),
    (tool(parameters={"$ref": "https://example.org/x"}), "tools[0].function.parameters"),
    ({"tools": [{"type": "browser"}]}, "tools[0].type"),
    ({"tools": [TOOL] * 2000}, "tools"),
    (tool(description="x" * (1 << 20)), "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "required",
                                          "tools": [{"type": "function", "name": "g"}]}},
        "tool_choice",
    ),
    ({"tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {
            "no_such_keyword": 1}}}},
        "response_format",
    ),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"chat_template_kwargs": {"messages": []}}, "messages"),
    ({"chat_template_kwargs": 3}, "chat_template_kwargs"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), CHAT_RULES)
def test_chat_names_the_field(change, param):
    answer = ask(ScriptedEngine(), CHAT, GOOD[CHAT] | change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == param


OTHERS = [
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": [[]]}, "prompt[0]"),
    (TEXT, {"prompt": [[999]]}, "prompt[0]"),
    (TEXT, {"prompt": [-1]}, "prompt[0]"),
    (TEXT, {"prompt": [1, "a"]}, "prompt[0]"),
    (TEXT, {"prompt": [True]}, "prompt[0]"),
    (TEXT, {"prompt": ["x"] * 1025}, "prompt"),
    (TEXT, {"max_tokens": 0}, "max_tokens"),
    (TEXT, {"suffix": "x"}, "suffix"),
    (TEXT, {"best_of": 3}, "best_of"),
    (TEXT, {"logprobs": 21}, "logprobs"),
    (TEXT, {"grammar": "root ::= x", "guided_regex": "x"}, "response_format"),
    (TEXT, {"structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
    (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
    (RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
    (RESPONSES, {"conversation": "conv_1"}, "conversation"),
    (RESPONSES, {"background": True}, "background"),
    (RESPONSES, {"input": []}, "input"),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    (RESPONSES, {"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    (
        RESPONSES,
        {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
        "input[0]",
    ),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    (RESPONSES, {"tools": [{"type": "namespace", "name": "x"}]}, "tools[0]"),
    (RESPONSES, {"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ("/detokenize", {"tokens": [999]}, "tokens"),
    ("/tokenize", {}, "prompt"),
]


@pytest.mark.parametrize(("path", "change", "param"), OTHERS)
def test_others_name_the_field(path, change, param):
    answer = ask(ScriptedEngine(), path, GOOD.get(path, {}) | change)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


MESSAGES = [
    ({"messages": []}, "messages"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    (said({"role": "robot", "content": "x"}), "messages[0].role"),
    (said({"role": "user", "content": [{"type": "image"}]}), "messages[0].content[0].type"),
    (said({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}),
     "messages[0].content[0]"),
    ({"system": [{"type": "image"}]}, "system[0].type"),
    ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
    ({"tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), MESSAGES)
def test_messages_name_the_field(change, param):
    answer = ask(ScriptedEngine(), CLAUDE, GOOD[CLAUDE] | change)
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["type"] == "error" and body["request_id"] == answer.headers["request-id"]
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(param)


HEAD = b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, '
BODIES = [
    (b"", "no JSON"),
    (b"hi", "no JSON"),
    (b"[]", "no JSON object"),
    (b"3", "no JSON object"),
    (b"[" * 100_000, "deeper than 200"),
    (HEAD + b'"a": ' + b'{"a": ' * 200 + b"1" + b"}" * 201, "deeper than 200"),
    (HEAD + b'"x": NaN}', "NaN is no JSON"),
    (HEAD + b'"x": [-Infinity]}', "-Infinity is no JSON"),
    (HEAD + b'"x": [1e999]}', "beyond a float"),
    (HEAD + b'"x": 1, "x": 1}', "'x' is there twice"),
    (HEAD + b'"x": {"y": 1, "y": 1}}', "'y' is there twice"),
    (HEAD + b'"x": "\xff"}', "no UTF-8"),
    (HEAD + b'"x": "\\ud800"}', "half of a surrogate pair"),
    (HEAD + b'"\\udfff": 1}', "half of a surrogate pair"),
    (b"\xef\xbb\xbf" + HEAD + b'"x": 1}', "no JSON"),
    (HEAD + b'"x": ' + b"9" * 5000 + b"}", "no JSON"),
]


@pytest.mark.parametrize(("body", "why"), BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("path", [CHAT, CLAUDE])
def test_what_is_no_json_object_is_refused(path, body, why):
    answer = ask(ScriptedEngine(), path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and why in error["message"]
    assert (answer.json().get("type") == "error") == (path == CLAUDE)


def test_a_key_that_comes_twice_is_found_without_comparing_all():
    compared = 0

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    with pytest.raises(ValueError, match="'twice' is there twice"):
        _unique([(Key(i), 1) for i in range(500)] + [(Key("twice"), 1), (Key("twice"), 2)])
    assert compared < 5000


def test_a_body_of_200_levels_is_read():
    body = b'{"messages": [{"role": "user", "content": "hi"}], "x": '
    assert ask(ScriptedEngine(), CHAT, body + b"[" * 198 + b"]" * 198 + b"}").status_code == 200


def test_other_types_than_json_are_refused():
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = ask(ScriptedEngine(), CHAT, b"{}", headers={"content-type": kind})
        assert answer.status_code == 415
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    assert ask(ScriptedEngine(), CHAT, b"{}", headers=packed).status_code == 415


@pytest.mark.parametrize("path", [CHAT, CLAUDE])
def test_a_body_has_a_largest_size(path):
    answer = ask(ScriptedEngine(), path, b" " * 2000 + b"{}", max_body=2000)
    assert answer.status_code == 413 and answer.headers["connection"] == "close"


def raw(chunks, **settings):
    """The status of a request whose body comes in pieces; None is a silence without end."""

    async def go():
        left, sent = list(chunks), []

        async def receive():
            if not left:
                return {"type": "http.disconnect"}
            chunk = left.pop(0)
            if chunk is None:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": chunk, "more_body": True}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(),
            "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": "",
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        await app_of(ScriptedEngine(), **settings)(scope, receive, send)
        return sent[0]["status"]

    return asyncio.run(go())


def test_a_body_without_end_is_cut():
    assert raw([b" " * 1000] * 10, max_body=5000) == 413


def test_a_body_that_stops_coming_is_given_up():
    assert raw([b"{", None], body_timeout=0.05) == 408


def test_a_body_that_ends_early_is_no_fault_of_the_server():
    assert raw([b"{"]) == 400


HOSTS = [
    ({}, "127.0.0.1:8080", 200),
    ({}, "localhost", 200),
    ({}, "[::1]:8080", 200),
    ({}, "evil.example", 403),
    ({}, "127.0.0.1.evil.example", 403),
    ({}, "10.0.0.1", 403),
    ({}, "", 403),
    ({"allowed_hosts": ("box.local",)}, "box.local:8080", 200),
    ({"allowed_hosts": ("Box.Local",)}, "box.local", 200),
    ({"host": "0.0.0.0", "no_auth": True}, "10.0.0.1:8080", 200),
    ({"host": "0.0.0.0", "no_auth": True}, "evil.example", 403),
    ({"host": "box.local", "api_keys": ("k",)}, "box.local", 200),
    ({"allowed_hosts": ("*",)}, "any.example", 200),
]


@pytest.mark.parametrize(("settings", "host", "status"), HOSTS)
def test_the_host_must_be_ours(settings, host, status):
    answer = ask(ScriptedEngine(), "/health", method="GET", headers={"host": host}, **settings)
    assert answer.status_code == status


ORIGINS = [
    ({}, None, 200),
    ({}, "http://127.0.0.1:8080", 200),
    ({}, "http://127.0.0.1:9000", 403),
    ({}, "https://evil.example", 403),
    ({}, "null", 403),
    ({"cors_origins": ("https://a.example",)}, "https://a.example", 200),
    ({"cors_origins": ("https://a.example",)}, "https://b.example", 403),
]


@pytest.mark.parametrize(("settings", "origin", "status"), ORIGINS)
def test_pages_elsewhere_may_not_ask(settings, origin, status):
    headers = {} if origin is None else {"origin": origin}
    answer = ask(ScriptedEngine(), CHAT, GOOD[CHAT], headers=headers, **settings)
    assert answer.status_code == status
    allowed = "access-control-allow-origin" in answer.headers
    assert allowed == (origin in settings.get("cors_origins", ()))


def test_a_preflight_of_an_allowed_page_needs_no_key():
    headers = {
        "origin": "https://a.example", "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }  # fmt: skip
    settings = {"cors_origins": ("https://a.example",), "api_keys": ("k",)}
    answer = ask(ScriptedEngine(), CHAT, method="OPTIONS", headers=headers, **settings)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic two"}, 401),
        ({"authorization": b"Bearer \xe9"}, 401),
        ({"authorization": "Bearer two"}, 200),
        ({"authorization": "bearer one"}, 200),
        ({"x-api-key": "two"}, 200),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": ""}, 401),
    ],
)
def test_a_key_is_wanted(headers, status):
    keys = {"api_keys": ("one", "two")}
    for path in (CHAT, CLAUDE):
        assert (
            ask(ScriptedEngine(), path, GOOD[path], headers=headers, **keys).status_code == status
        )
    assert ask(ScriptedEngine(), "/health", method="GET", **keys).status_code == 200
    assert ask(ScriptedEngine(), "/", method="HEAD", **keys).status_code == 200
    models = ask(ScriptedEngine(), "/v1/models", method="GET", headers=headers, **keys)
    assert models.status_code == status


def test_other_machines_are_not_served_without_a_key_by_oversight():
    for host in ("0.0.0.0", "::", "192.168.1.2", "box.local"):
        with pytest.raises(SessionError, match="no-auth"):
            Settings(host=host)
        assert Settings(host=host, no_auth=True) and Settings(host=host, api_keys=("k",))
    assert Settings(host="localhost") and Settings(host="::1")
    with pytest.raises(SessionError, match="api_keys"):
        Settings(api_keys=("",))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/nobody", 404),
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/messages/nothing", 404),
        ("GET", "/v1/models/", 404),
    ],
)
def test_unknown_paths_and_methods(method, path, status):
    answer = ask(ScriptedEngine(), path, method=method)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_embeddings_are_not_done():
    assert ask(ScriptedEngine(), "/v1/embeddings", {"input": "x"}).status_code == 501


def test_one_model_has_every_name_and_several_have_their_own():
    assert ask(ScriptedEngine(), CHAT, GOOD[CHAT] | {"model": "gpt-9"}).status_code == 200
    from moeflux.serve.app import create_app

    engines = {name: ScriptedEngine({"": name}, name=name) for name in ("a", "b")}
    app = create_app(engines, Settings(aliases={"claude-*": "b"}))

    async def go(name):
        async with http(app) as client:
            return await client.post(CHAT, json=GOOD[CHAT] | {"model": name})

    assert asyncio.run(go("a")).json()["choices"][0]["message"]["content"] == "a"
    found = asyncio.run(go("claude-haiku")).json()
    assert found["model"] == "b" and found["choices"][0]["message"]["content"] == "b"
    refused = asyncio.run(go("c"))
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"
    assert "a, b" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", GOOD)
def test_a_prompt_beyond_the_context_has_a_code_of_its_own(path):
    long = "x" * 300
    body = {
        CHAT: said({"role": "user", "content": long}),
        TEXT: {"prompt": long},
        CLAUDE: said({"role": "user", "content": long}) | {"max_tokens": 5},
        RESPONSES: {"input": long},
    }[path]
    answer = ask(ScriptedEngine(context=256), path, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "256" in error["message"] and "3" in error["message"]
    assert path == CLAUDE or error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    ("error", "status", "claudes"),
    [
        (Busy("full", 7), 503, 529),
        (Late("slow"), 504, 504),
        (FAULT, 500, 500),
        (ValueError("bug"), 500, 500),
    ],
)
def test_an_engine_that_fails(path, stream, error, status, claudes):
    answer = ask(ScriptedEngine({"": error}), path, GOOD[path] | {"stream": stream})
    found = answer.json()["error"]
    assert answer.status_code == (claudes if path == CLAUDE else status)
    assert isinstance(error, Busy) == ("retry-after" in answer.headers)
    assert "bug" not in answer.text
    assert path == CLAUDE or found["code"]


@pytest.mark.parametrize("path", GOOD)
def test_an_error_after_the_first_event_is_an_event(path):
    class Failing(ScriptedEngine):
        async def _choice(self, *given):
            async for delta in super()._choice(*given):
                yield delta
                raise FAULT

    found = events(ask(Failing(), path, GOOD[path] | {"stream": True}).text)
    name, data = found[-1]
    if path == RESPONSES:
        assert name == "response.failed" and data["response"]["error"]["message"]
    elif path == CLAUDE:
        assert name == "error" and data["error"]["type"] == "api_error"
    else:
        assert name is None and data["error"]["code"] == "engine_error"


@pytest.mark.parametrize(
    ("state", "status"),
    [("ok", 200), ("degraded", 200), ("draining", 503), ("failed", 503), ("loading", 503)],
)
def test_health(state, status):
    engine = ScriptedEngine()
    engine.state = Health(state, detail="why")
    for path in ("/health", "/v1/health"):
        answer = ask(engine, path, method="GET")
        assert answer.status_code == status and answer.json()["status"] == state


def test_ids_of_requests_come_back_unless_they_are_odd():
    def found(given):
        answer = ask(ScriptedEngine(), "/health", method="GET", headers={"x-request-id": given})
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        return answer.headers["x-request-id"]

    assert found("mine-1") == "mine-1"
    assert found("x" * 129) != "x" * 129
    assert found("a\tb").startswith("req_")


def test_fields_that_nobody_knows_are_ignored():
    more = {"context_management": {"edits": []}, "betas": ["x"], "service_tier": "auto",
            "client_metadata": {}, "verbosity": "low", "prediction": {}, "store": True}  # fmt: skip
    for path, body in GOOD.items():
        assert ask(ScriptedEngine(), path, body | more).status_code == 200


@pytest.mark.parametrize("path", GOOD)
def test_null_means_that_a_field_is_not_there(path):
    """Clients in languages with a null send every field that they know."""
    bodies = {paths[0]: body for paths, (_, body) in POSTS.items()}
    fields = bodies[path].model_json_schema()["properties"]
    nulls = {
        name: None for name, schema in fields.items() if {"type": "null"} in schema.get("anyOf", ())
    }
    assert "temperature" in nulls
    for one in ({}, *({name: None} for name in nulls), nulls):
        answer = ask(ScriptedEngine(), path, GOOD[path] | one)
        assert answer.status_code == 200, (one, answer.text)


def test_minus_one_means_none():
    engine = ScriptedEngine()
    body = GOOD[CHAT] | {"seed": -1, "max_tokens": -1, "n_predict": -1, "top_k": -1}
    assert ask(engine, CHAT, body).status_code == 200
    assert engine.jobs[0].sampling.max_tokens is None and engine.jobs[0].sampling.top_k == 0


def test_errors_of_the_unexpected_tell_nothing():
    assert as_api_error(KeyError("secret")).message == "the server failed; its log says why"
    assert as_api_error(ApiError(418, "x")).status == 418
    assert json.dumps(ApiError(400, "\ud800").openai())
