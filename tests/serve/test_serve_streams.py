"""Streams of the three dialects, event for event, written by hand from their specifications."""

import re

from serve.asking import CALL, USER, WEATHER, ask, events
from serve.scripted import ScriptedEngine

ANSWER = f"<think>\nHm.\n</think>\n\nYes.\n{CALL}"
ID = re.compile(r"^(chatcmpl-|cmpl-|resp_|msg_|fc_|rs_|call_|toolu_)[A-Za-z0-9]{24}$")


def engine():
    return ScriptedEngine({"": ANSWER})


def joined(found, key):
    """Neighbours that only add text, as one: [(what, text), ...]."""
    out = []
    for what, text in map(key, found):
        if out and out[-1][0] == what and text is not None:
            out[-1] = (what, out[-1][1] + text)
        else:
            out.append((what, text))
    return out


def test_chat_stream():
    body = {
        "model": "m",
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": WEATHER}],
    }
    answer = ask(engine(), "/v1/chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = [data for _, data in events(answer.text)]
    assert found[-1] == "[DONE]"
    *chunks, usage = found[:-1]
    assert {c["object"] for c in [*chunks, usage]} == {"chat.completion.chunk"}
    assert len({c["id"] for c in chunks}) == 1 and ID.match(chunks[0]["id"])
    assert all(c["usage"] is None and len(c["choices"]) == 1 for c in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 8}
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    reasons = [c["choices"][0]["finish_reason"] for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["tool_calls"]
    assert chunks[-1]["timings"]["moeflux"] == {
        "hits": 3, "misses": 1, "read_bytes": 4096, "wait_ms": 250.0,
    }  # fmt: skip
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert deltas[-1] == {}
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert ID.match(calls[0].pop("id"))
    function = {"name": "get_weather", "arguments": ""}
    assert calls[0] == {"index": 0, "type": "function", "function": function}
    assert all(call.keys() == {"index", "function"} for call in calls[1:])
    assert all(call["function"].keys() == {"arguments"} for call in calls[1:])

    def key(delta):
        name = next(iter(delta), None)
        if name == "tool_calls":
            return name, delta[name][0]["function"]["arguments"]
        return name, delta.get(name)

    assert joined(deltas[1:-1], key) == [
        ("reasoning_content", "Hm."),
        ("content", "Yes."),
        ("tool_calls", '{"city": "Paris"}'),
    ]


def test_anthropic_stream():
    body = {
        "model": "m",
        "messages": [USER],
        "max_tokens": 99,
        "stream": True,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": WEATHER["name"], "input_schema": WEATHER["parameters"]}],
    }
    scripted = engine()
    found = events(ask(scripted, "/v1/messages", body).text)
    assert all(name == data["type"] for name, data in found)
    start = found[0][1]["message"]
    assert ID.match(start["id"])
    assert start["content"] == [] and start["stop_reason"] is None
    assert start["usage"]["cache_read_input_tokens"] == 8
    assert start["usage"]["input_tokens"] == len(scripted.jobs[0].ids) - 8

    def key(item):
        name, data = item
        delta = data.get("delta", {})
        text = next((delta[k] for k in ("text", "thinking", "partial_json") if k in delta), None)
        return (name, data.get("index"), delta.get("type")), text

    assert joined(found, key) == [
        (("message_start", None, None), None),
        (("content_block_start", 0, None), None),
        (("content_block_delta", 0, "thinking_delta"), "Hm."),
        (("content_block_delta", 0, "signature_delta"), None),
        (("content_block_stop", 0, None), None),
        (("content_block_start", 1, None), None),
        (("content_block_delta", 1, "text_delta"), "Yes."),
        (("content_block_stop", 1, None), None),
        (("content_block_start", 2, None), None),
        (("content_block_delta", 2, "input_json_delta"), '{"city": "Paris"}'),
        (("content_block_stop", 2, None), None),
        (("message_delta", None, None), None),
        (("message_stop", None, None), None),
    ]
    blocks = [d["content_block"] for name, d in found if name == "content_block_start"]
    assert ID.match(blocks[2].pop("id"))
    assert blocks == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": "", "citations": None},
        {"type": "tool_use", "name": "get_weather", "input": {}},
    ]
    end = found[-2][1]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"]["output_tokens"] > 20


def test_responses_stream():
    body = {
        "model": "m",
        "input": "hi",
        "stream": True,
        "tools": [{"type": "function", **WEATHER, "strict": False}],
    }
    found = events(ask(engine(), "/v1/responses", body).text)
    assert all(name == data["type"] for name, data in found)
    assert [data["sequence_number"] for _, data in found] == list(range(len(found)))

    def key(item):
        name, data = item
        text = data.get("delta") if name.endswith(".delta") else None
        return (name.removeprefix("response."), data.get("output_index")), text

    assert joined(found, key) == [
        (("created", None), None),
        (("in_progress", None), None),
        (("output_item.added", 0), None),
        (("content_part.added", 0), None),
        (("reasoning_text.delta", 0), "Hm."),
        (("reasoning_text.done", 0), None),
        (("content_part.done", 0), None),
        (("output_item.done", 0), None),
        (("output_item.added", 1), None),
        (("content_part.added", 1), None),
        (("output_text.delta", 1), "Yes."),
        (("output_text.done", 1), None),
        (("content_part.done", 1), None),
        (("output_item.done", 1), None),
        (("output_item.added", 2), None),
        (("function_call_arguments.delta", 2), '{"city": "Paris"}'),
        (("function_call_arguments.done", 2), None),
        (("output_item.done", 2), None),
        (("completed", None), None),
    ]
    final = found[-1][1]["response"]
    assert ID.match(final["id"]) and final["status"] == "completed"
    done = [d["item"] for name, d in found if name == "response.output_item.done"]
    assert done == final["output"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call"]
    assert all(ID.match(item["id"]) for item in done) and ID.match(done[2]["call_id"])
    assert done[2]["arguments"] == '{"city": "Paris"}' and done[2]["name"] == "get_weather"
    added = [d["item"] for name, d in found if name == "response.output_item.added"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert {item["status"] for item in added} == {"in_progress"}
    texts = [d for name, d in found if name == "response.output_text.delta"]
    assert all(d["logprobs"] == [] for d in texts)


def test_an_answer_that_is_cut_is_incomplete():
    body = {"model": "m", "input": "hi", "stream": True, "max_output_tokens": 5}
    found = events(ask(ScriptedEngine(), "/v1/responses", body).text)
    name, data = found[-1]
    assert name == "response.incomplete"
    assert data["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert data["response"]["output"][-1]["status"] == "incomplete"


def test_n_choices_share_a_stream():
    body = {"messages": [USER], "stream": True, "n": 3}
    found = [d for _, d in events(ask(ScriptedEngine(), "/v1/chat/completions", body).text)]
    texts = dict.fromkeys(range(3), "")
    for chunk in found[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert set(texts.values()) == {"Hello there."}
    assert [c["choices"][0]["index"] for c in found[:3]] == [0, 1, 2]


def test_a_completion_streams_its_echo_first():
    body = {"prompt": "ab", "echo": True, "max_tokens": 3, "stream": True, "logprobs": 1}
    found = [d for _, d in events(ask(ScriptedEngine(), "/v1/completions", body).text)]
    choices = [chunk["choices"][0] for chunk in found[:-1]]
    assert [c["text"] for c in choices] == ["ab", "H", "e", "l", ""]
    assert choices[0]["logprobs"]["token_logprobs"][0] is None
    assert [c["finish_reason"] for c in choices] == [None] * 4 + ["length"]
    assert [bool(chunk.get("timings")) for chunk in found[:-1]] == [False] * 4 + [True]
    assert found[-1] == "[DONE]"
    places = [at for chunk in choices for at in chunk["logprobs"]["text_offset"]]
    assert places == [0, 1, 2, 3, 4]


def test_a_streams_usage_is_that_of_the_whole_answer():
    body = {"prompt": ["a long prompt", "another prompt"], "max_tokens": 3, "n": 2}
    whole = ask(ScriptedEngine(), "/v1/completions", body).json()["usage"]
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    found = events(ask(ScriptedEngine(), "/v1/completions", body).text)
    assert found[-2][1]["usage"] == whole and whole["prompt_tokens_details"]["cached_tokens"] == 16
