"""The official SDKs, with strict validation, over what they can ask for."""

import asyncio

import httpx2
import pytest

from serve.asking import BASE, CALL, WEATHER, app_of
from serve.scripted import ScriptedEngine
from support.later import Later

anthropic = Later("anthropic")
openai = Later("openai")

THOUGHT = "<think>\nHm.\n</think>\n\nHello there."
SCRIPT = {"": THOUGHT, "weather": f"Sure.\n{CALL}", "both": f"{CALL}\n{CALL}"}
USER = {"role": "user", "content": "hi"}
ASK_WEATHER = {"role": "user", "content": "weather"}
TOOL = {"type": "function", "function": WEATHER}


def run(go, engine=None):
    """Calls `go(openai client, anthropic client)` on an app."""

    async def main():
        app = app_of(engine or ScriptedEngine(SCRIPT), api_keys=("key",))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
            common = {"api_key": "key", "http_client": http, "_strict_response_validation": True}
            return await go(
                openai.AsyncOpenAI(base_url=f"{BASE}/v1", **common),
                anthropic.AsyncAnthropic(base_url=BASE, **common),
            )

    return asyncio.run(main())


CHATS = [
    {},
    {"n": 2, "seed": 3, "temperature": 0.5, "top_p": 0.9},
    {"logprobs": True, "top_logprobs": 2},
    {"stop": ["there"], "max_completion_tokens": 50},
    {"presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"65": -100}},
    {"tools": [TOOL], "messages": [ASK_WEATHER], "parallel_tool_calls": True},
    {"tools": [TOOL], "messages": [ASK_WEATHER], "tool_choice": "required"},
    {"tools": [TOOL], "messages": [{"role": "user", "content": "both"}]},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    {"reasoning_effort": "low", "user": "me", "metadata": {"a": "b"}, "store": False},
]


@pytest.mark.parametrize("options", CHATS)
def test_chat(options):
    async def go(client, _):
        asked = {"model": "m", "messages": [USER], **options}
        whole = await client.chat.completions.create(**asked)
        streamed = {}
        async for chunk in await client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ):
            for choice in chunk.choices:
                found = streamed.setdefault(choice.index, ["", "", [], None])
                found[0] += choice.delta.content or ""
                found[1] += getattr(choice.delta, "reasoning_content", None) or ""
                found[2] += choice.delta.tool_calls or []
                found[3] = choice.finish_reason or found[3]
            usage = chunk.usage
        return whole, streamed, usage

    whole, streamed, usage = run(go)
    assert usage == whole.usage
    for choice in whole.choices:
        text, reasoning, calls, reason = streamed[choice.index]
        assert text == (choice.message.content or "")
        assert reasoning == getattr(choice.message, "reasoning_content", "")
        assert reason == choice.finish_reason
        names = [call.function.name for call in calls if call.function.name]
        assert names == [call.function.name for call in choice.message.tool_calls or []]
    if options.get("logprobs"):
        entries = whole.choices[0].logprobs.content
        assert "".join(entry.token for entry in entries) == "Hello there."
        assert all(len(entry.top_logprobs) == 2 for entry in entries)
        assert bytes(entries[0].bytes) == b"H"
    if options.get("stop"):
        assert whole.choices[0].message.content.rstrip() == "Hello"


def test_chat_tool_round_trip():
    async def go(client, _):
        messages = [ASK_WEATHER]
        first = await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        messages += [
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"},
        ]
        return await client.chat.completions.create(model="m", messages=messages, tools=[TOOL])

    engine = ScriptedEngine({"weather": CALL, "sunny": "It is sunny."})
    assert run(go, engine).choices[0].message.content == "It is sunny."


def test_a_parsed_chat():
    import pydantic

    class City(pydantic.BaseModel):
        name: str

    async def go(client, _):
        return await client.chat.completions.parse(model="m", messages=[USER], response_format=City)

    engine = ScriptedEngine({"": '{"name": "Paris"}'})
    assert run(go, engine).choices[0].message.parsed == City(name="Paris")
    assert engine.jobs[0].constraint.kind == "lark" and engine.jobs[0].constraint.strict


def test_completions():
    async def go(client, _):
        return [
            await client.completions.create(model="m", prompt="ab", max_tokens=4, **options)
            for options in ({}, {"n": 2}, {"logprobs": 2}, {"echo": True})
        ]

    plain, two, scored, echoed = run(go, ScriptedEngine())
    assert plain.choices[0].text == "Hell" and plain.choices[0].finish_reason == "length"
    assert [choice.index for choice in two.choices] == [0, 1]
    assert scored.choices[0].logprobs.tokens == list("Hell")
    assert echoed.choices[0].text == "abHell"


def test_models():
    async def go(client, claude):
        return (
            [model.id async for model in client.models.list()],
            await client.models.retrieve("scripted"),
            [model.id async for model in claude.models.list()],
            await claude.models.retrieve("scripted"),
        )

    names, one, again, other = run(go)
    assert names == again == ["scripted"] == [one.id] == [other.id]
    assert other.type == "model" and other.created_at.timestamp() == one.created


MESSAGES = [
    {},
    {"system": "Be short.", "extra_body": {"temperature": 0.5, "top_k": 40, "top_p": 0.9}},
    {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"stop_sequences": ["there"]},
    {"messages": [ASK_WEATHER], "tools": [{"name": "get_weather", "input_schema": {}}]},
    {
        "messages": [ASK_WEATHER],
        "tools": [{"name": "get_weather", "input_schema": WEATHER["parameters"]}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    },
]


@pytest.mark.parametrize("options", MESSAGES)
def test_messages(options):
    async def go(_, client):
        asked = {"model": "m", "max_tokens": 99, "messages": [USER], **options}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            return whole, await stream.get_final_message()

    whole, streamed = run(go)
    kinds = [block.type for block in whole.content]
    assert kinds == [block.type for block in streamed.content]
    assert whole.stop_reason == streamed.stop_reason
    assert whole.usage.output_tokens == streamed.usage.output_tokens
    if options.get("stop_sequences"):
        assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "there")
    if options.get("tools"):
        assert whole.stop_reason == "tool_use"
        assert whole.content[-1].input == streamed.content[-1].input == {"city": "Paris"}


def test_count_tokens_is_the_length_of_the_prompt():
    async def go(_, client):
        asked = {"model": "m", "messages": [USER], "system": "Be short."}
        counted = await client.messages.count_tokens(**asked)
        await client.messages.create(max_tokens=5, **asked)
        return counted.input_tokens

    engine = ScriptedEngine()
    assert run(go, engine) == len(engine.jobs[0].ids)


RESPONSES = [
    {},
    {"instructions": "Be short.", "max_output_tokens": 40, "temperature": 0.1},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
    {"input": [{"role": "developer", "content": "x"}, {"role": "user", "content": "hi"}]},
    {"input": "weather", "tools": [{"type": "function", **WEATHER, "strict": False}]},
    {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}},
    {"reasoning": {"effort": "low", "summary": "auto"}, "store": False,
     "include": ["reasoning.encrypted_content"]},
]  # fmt: skip


@pytest.mark.parametrize("options", RESPONSES)
def test_responses(options):
    async def go(client, _):
        asked = {"model": "m", "input": "hi", **options}
        whole = await client.responses.create(**asked)
        async for event in await client.responses.create(**asked, stream=True):
            last = event
        return whole, last.response

    whole, streamed = run(go)
    assert whole.status == streamed.status
    assert whole.output_text == streamed.output_text
    assert [item.type for item in whole.output] == [item.type for item in streamed.output]
    assert whole.usage == streamed.usage


def test_responses_tool_round_trip_with_namespaces_and_custom_tools():
    space = {"type": "namespace", "name": "mcp", "description": "", "tools": [
        {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False},
        {"type": "custom", "name": "draw"},
    ]}  # fmt: skip
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}
    tools = [space, {"type": "custom", "name": "patch", "format": grammar}, {"type": "web_search"}]

    async def go(client, _):
        asked = {"role": "user", "content": "go"}
        raw = await client.responses.with_raw_response.create(model="m", input=[asked], tools=tools)
        first = raw.parse()
        items = [item.model_dump(exclude_none=True) for item in first.output]
        outputs = [
            {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": "sunny"}
            for item in items
        ]
        second = await client.responses.create(
            model="m", input=[asked, *items, *outputs], tools=tools
        )
        return raw.headers, first, second

    engine = ScriptedEngine({
        "go": '<tool_call>\n{"name": "mcp__look", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "patch", "arguments": {"input": "*** x"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "mcp__draw", "arguments": {"input": "o"}}\n</tool_call>',
        "sunny": "Done.",
    })  # fmt: skip
    headers, first, second = run(go, engine)
    look, patch, draw = first.output
    assert (draw.type, draw.namespace, draw.name) == ("custom_tool_call", "mcp", "draw")
    assert (look.type, look.namespace, look.name) == ("function_call", "mcp", "look")
    assert (patch.type, patch.name, patch.input) == ("custom_tool_call", "patch", "*** x")
    assert "web_search" in headers["x-moeflux-warning"]
    assert "tools[1].format" in headers["x-moeflux-warning"]
    assert second.output_text == "Done."


def test_errors_are_the_sdks_own():
    async def go(client, claude):
        with pytest.raises(openai.BadRequestError) as found:
            await client.chat.completions.create(model="m", messages=[])
        assert found.value.param == "messages"
        with pytest.raises(anthropic.BadRequestError) as refused:
            await claude.messages.create(model="m", max_tokens=5, messages=[])
        assert refused.value.body["error"]["type"] == "invalid_request_error"
        assert refused.value.request_id
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        with pytest.raises(anthropic.AuthenticationError):
            await claude.with_options(api_key="wrong").messages.count_tokens(
                model="m", messages=[USER]
            )

    run(go)
