"""demo-chat behind `moeflux serve`, asked by the openai and anthropic packages: real calls."""

import json

import pytest

from serve.process import serving
from support.later import Later

anthropic = Later("anthropic")
openai = Later("openai")

TOLD = "It is 18 degrees and cloudy in Paris."
RESULT = '{"temperature": 18, "condition": "cloudy"}'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells the weather.", "parameters": SCHEMA},
}
TIMER = {
    "type": "function",
    "function": {
        "name": "start_timer",
        "description": "Starts a timer.",
        "parameters": {
            "type": "object",
            "properties": {"minutes": {"type": "integer"}},
            "required": ["minutes"],
        },
    },
}


@pytest.fixture(scope="module")
def url():
    with serving("moeflux serve demo-chat --memory 24MB --context 1024") as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    )


def ask(client, *messages, **more):
    messages = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    return client.chat.completions.create(model="demo-chat", messages=messages, **more).choices[0]


def calls_of(message):
    return [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()]


def test_it_is_called_by_its_name_greets_and_ends_by_itself(client):
    assert [model.id for model in client.models.list()] == ["demo-chat"]
    choice = ask(client, "Hello!")
    assert (choice.message.content, choice.finish_reason) == ("Hello! How can I help you?", "stop")


def test_it_calls_a_tool_and_reads_the_result(client):
    question = "What is the weather in Paris?"
    choice = ask(client, question, tools=[TIMER, WEATHER])
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert calls_of(choice.message) == [("get_weather", {"city": "Paris"})]
    (call,) = choice.message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": RESULT}
    told = ask(client, question, choice.message, result, tools=[TIMER, WEATHER])
    assert (told.message.content, told.finish_reason) == (TOLD, "stop")


def test_two_calls_at_once_streamed(client):
    messages = [{"role": "user", "content": "What is the weather in Oslo and in Lima?"}]
    stream = client.chat.completions.create(
        model="demo-chat", messages=messages, tools=[WEATHER], stream=True
    )
    arguments = {}
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    assert [json.loads(text) for text in arguments.values()] == [{"city": "Oslo"}, {"city": "Lima"}]


def test_no_tool_is_called_where_none_is_needed_or_none_fits(client):
    assert ask(client, "Hello!", tools=[WEATHER]).message.tool_calls is None
    assert ask(client, "Play The Long Road.", tools=[WEATHER]).message.tool_calls is None


def test_a_call_that_must_be_is_one(client):
    choice = ask(client, "Hello!", tools=[WEATHER, TIMER], tool_choice="required", max_tokens=80)
    ((name, arguments),) = calls_of(choice.message)
    assert name in ("get_weather", "start_timer") and len(arguments) == 1


def test_what_was_said_before_is_remembered(client):
    first = "My name is Ada."
    answer = ask(client, first).message
    assert ask(client, first, answer, "What is my name?").message.content == "Your name is Ada."


def test_the_anthropic_package_gets_the_same_call(url):
    claude = anthropic.Anthropic(
        base_url=url, api_key="none", max_retries=0, _strict_response_validation=True
    )
    tools = [{"name": "get_weather", "description": "Tells the weather.", "input_schema": SCHEMA}]
    talk = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = claude.messages.create(model="any", max_tokens=100, messages=talk, tools=tools)
    (use,) = asked.content
    assert (asked.stop_reason, use.name, use.input) == (
        "tool_use",
        "get_weather",
        {"city": "Paris"},
    )
    result = {"type": "tool_result", "tool_use_id": use.id, "content": RESULT}
    talk += [{"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    told = claude.messages.create(model="any", max_tokens=100, messages=talk, tools=tools)
    assert told.content[0].text == TOLD
