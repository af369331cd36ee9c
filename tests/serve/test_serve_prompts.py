"""From a request to a job: prompts, marks, calls replayed, sampling, and grammars."""

import asyncio
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from moeflux.serve import dialogue
from moeflux.serve.api import anthropic_content
from moeflux.serve.dialogue import Call, Dialogue, OutputRule, ToolSpec, Turn
from moeflux.serve.http.errors import ApiError
from moeflux.serve.parse.grammar import rule_of
from moeflux.serve.parse.markup import Markup, find_markup
from moeflux.serve.parse.parser import Parser
from moeflux.serve.render import CHATML, Renderer, Replay
from oracle.tokenizer_file import write_tokenizer
from serve.asking import CALL, USER, WEATHER, app_of, ask, events, http
from serve.scripted import TEMPLATE, TOKENS, ScriptedEngine, tokenizer
from support import markups

CHAT, CLAUDE, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
TOOL = {"type": "function", "function": WEATHER}


def job(path, body, engine=None, **settings):
    engine = engine or ScriptedEngine()
    answer = ask(engine, path, body, **settings)
    assert answer.status_code == 200, answer.text
    return engine.jobs[-1]


def text(job):
    return tokenizer().decode(list(job.ids), skip_special_tokens=False)


HI = "<|im_start|>user\nhi<|im_end|>\n"
HEAD = "<|im_start|>assistant\n"
OFF = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (CHAT, {"messages": [USER]}, HI + HEAD),
        (CHAT, {"messages": [USER], "reasoning_effort": "none"}, HI + HEAD + OFF),
        (CHAT, {"messages": [USER], "enable_thinking": False}, HI + HEAD + OFF),
        (CHAT, {"messages": [USER], "thinking": {"type": "disabled"}}, HI + HEAD + OFF),
        (
            CHAT,
            {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}},
            HI + HEAD + OFF,
        ),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
         HI + HEAD),
        (CHAT, {"messages": [{"role": "system", "content": "a"}, {"role": "developer",
                "content": "b"}, USER]}, "<|im_start|>system\na\n\nb<|im_end|>\n" + HI + HEAD),
        (CHAT, {"messages": [USER, {"role": "system", "content": "a"}]},
         HI + "<|im_start|>user\na<|im_end|>\n" + HEAD),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": "Well"}]},
         HI + HEAD + "Well"),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": "ok",
                "reasoning_content": "Hm."}, USER]},
         HI + HEAD + "<think>\nHm.\n</think>\n\nok<|im_end|>\n" + HI + HEAD),
        (CLAUDE, {"messages": [USER], "max_tokens": 9}, HI + HEAD + OFF),
        (CLAUDE, {"messages": [USER], "max_tokens": 9, "thinking": {"type": "adaptive"}},
         HI + HEAD),
        (CLAUDE, {"messages": [USER], "max_tokens": 9, "thinking": {"type": "adaptive"},
                  "system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1"},
                             {"type": "text", "text": "S"}]},
         "<|im_start|>system\nS<|im_end|>\n" + HI + HEAD),
        (CLAUDE, {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "system", "content": "c"}], "max_tokens": 9,
            "thinking": {"type": "adaptive"}},
         "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n" + HEAD),
        (RESPONSES, {"input": "hi", "instructions": "S"},
         "<|im_start|>system\nS<|im_end|>\n" + HI + HEAD),
        (RESPONSES, {"input": [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "hi"}]}], "reasoning": {"effort": "none"}},
         HI + HEAD + OFF),
    ],
)  # fmt: skip
def test_prompts(path, body, expected):
    assert text(job(path, body)) == expected


def test_one_call_in_three_dialects_is_one_prompt():
    arguments = {"city": "Paris"}
    call = {"id": "c1", "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps(arguments)}}  # fmt: skip
    chat = job(CHAT, {"tools": [TOOL], "messages": [
        USER, {"role": "assistant", "content": None, "reasoning_content": "Hm.",
               "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"}]})  # fmt: skip
    claude = job(CLAUDE, {
        "max_tokens": 9, "thinking": {"type": "adaptive"},
        "tools": [{"name": "get_weather", "description": WEATHER["description"],
                   "input_schema": WEATHER["parameters"]}],
        "messages": [USER, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"},
            {"type": "tool_use", "id": "c1", "name": "get_weather", "input": arguments}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [
                    {"type": "text", "text": "sunny"}]}]}]})  # fmt: skip
    responses = job(RESPONSES, {"tools": [{"type": "function", **WEATHER}], "input": [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather",
         "arguments": json.dumps(arguments)},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"}]})  # fmt: skip
    assert text(chat) == text(claude) == text(responses)
    assert text(chat).endswith(
        HI + HEAD + "<think>\nHm.\n</think>\n\n" + f"\n{CALL}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n" + HEAD
    )


def test_special_tokens_in_what_others_say_are_text():
    plain = job(CHAT, {"messages": [{"role": "user", "content": "a<|im_end|>b</think>"}]})
    assert 256 not in plain.ids[:-20] and text(plain).count("<|im_end|>") == 2
    assert [token for token in plain.ids if token >= 256] == [257, 256, 257]


def test_marks_are_where_prompts_part():
    system = {"role": "system", "content": "Be short."}
    one = job(CHAT, {"messages": [system, USER]})
    other = job(CHAT, {"messages": [system, {"role": "user", "content": "tell"}]})
    shared = next(i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b)
    assert one.marks[0] == other.marks[0] == shared
    answered = [system, USER, {"role": "assistant", "content": "Hello there."}, USER]
    third = job(CHAT, {"messages": answered})
    assert one.ids[: one.marks[-1]] == third.ids[: one.marks[-1]]
    assert len(one.ids) - one.marks[-1] == len(tokenizer().encode(HEAD))
    assert list(third.marks) == sorted(set(third.marks))


def test_cache_control_makes_a_mark():
    first = {"role": "user", "content": [
        {"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]}  # fmt: skip
    rest = [{"role": "assistant", "content": "ok"}, USER]
    marked = job(CLAUDE, {"messages": [first, *rest], "max_tokens": 9})
    end = text(marked).index("long<|im_end|>\n")
    assert len(tokenizer().encode(text(marked)[:end] + "long<|im_end|>\n")) in marked.marks


def test_a_call_is_replayed_as_it_was_written():
    written = '<tool_call>\n{"name": "get_weather", "arguments": {"city":   "Paris"}}\n</tool_call>'
    engine = ScriptedEngine({"": written})

    async def go():
        async with http(app_of(engine)) as client:
            asked = {"messages": [USER], "tools": [TOOL]}
            first = (await client.post(CHAT, json=asked)).json()["choices"][0]["message"]
            call = first["tool_calls"][0]
            assert call["function"]["arguments"] == '{"city":   "Paris"}'
            call["function"]["arguments"] = '{"city":"Paris"}'  # as OpenCode sends it back
            result = {"role": "tool", "tool_call_id": call["id"], "content": "x"}
            await client.post(CHAT, json={**asked, "messages": [USER, first, result]})
            call["function"]["arguments"] = '{"city":"Rome"}'
            await client.post(CHAT, json={**asked, "messages": [USER, first, result]})

    asyncio.run(go())
    same, changed = map(text, engine.jobs[1:])
    assert written in same
    assert '{"city":"Rome"}' in changed and written not in changed


ANSWERS = {  # how a client gives an answer back, and a result of its call
    CHAT: lambda answer: [
        message := answer["choices"][0]["message"],
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"},
    ],
    CLAUDE: lambda answer: [
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [{"type": "tool_result", "content": "sunny",
                                      "tool_use_id": answer["content"][-1]["id"]}]},
    ],
    RESPONSES: lambda answer: [
        *({k: v for k, v in item.items() if k != "content" or item["type"] == "message"}
          for item in answer["output"]),
        {"type": "function_call_output", "call_id": answer["output"][-1]["call_id"],
         "output": "sunny"},
    ],
}  # fmt: skip
FIRST = {
    CHAT: {"messages": [USER], "tools": [TOOL]},
    CLAUDE: {"messages": [USER], "max_tokens": 99, "thinking": {"type": "enabled"},
             "tools": [{"name": "get_weather", "input_schema": WEATHER["parameters"]}]},
    RESPONSES: {"input": [USER], "tools": [{"type": "function", **WEATHER}],
                "include": ["reasoning.encrypted_content"]},
}  # fmt: skip


def without_reasoning(message):
    content = message.get("content")
    if isinstance(content, list):
        content = [block for block in content if block["type"] != "thinking"]
    kept = {key: value for key, value in message.items() if key != "reasoning_content"}
    return kept | ({"content": content} if "content" in message else {})


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("path", FIRST)
def test_the_next_prompt_begins_with_this_one_and_its_answer(path, forgetful):
    said = f"<think>\nHm.\n</think>\n\nSure.\n{CALL}<|im_end|>"
    engine = ScriptedEngine({"": said.removesuffix("<|im_end|>")})

    async def go():
        async with http(app_of(engine)) as client:
            body = FIRST[path]
            answer = (await client.post(path, json=body)).json()
            key = "input" if path == RESPONSES else "messages"
            given = ANSWERS[path](answer)
            if forgetful:
                given = [without_reasoning(m) for m in given if m.get("type") != "reasoning"]
            again = {**body, key: [*body[key], *given]}
            assert (await client.post(path, json=again)).status_code == 200

    asyncio.run(go())
    first, second = engine.jobs
    held = [*first.ids, *tokenizer().encode(said)]
    assert second.ids[: len(held)] == held
    assert max(second.marks) >= len(held)


def test_a_call_that_was_cut_short_is_not_replayed():
    cut = CALL[: CALL.index("Paris") + 3]
    engine = ScriptedEngine({"": cut, "sunny": "Done."})
    app = app_of(engine)

    async def go():
        async with http(app) as client:
            asked = {"tools": [TOOL], "messages": [USER], "stream": True}
            stream = events((await client.post(CHAT, json=asked)).text)
            deltas = [d["choices"][0]["delta"] for _, d in stream if d != "[DONE]"]
            calls = [d["tool_calls"][0] for d in deltas if d.get("tool_calls")]
            given = {"name": "get_weather", "arguments": '{"city": "Par"}'}
            said = {"role": "assistant", "tool_calls": [
                {"id": calls[0]["id"], "type": "function", "function": given}]}  # fmt: skip
            result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sunny"}
            return await client.post(CHAT, json={"messages": [USER, said, result]})

    assert asyncio.run(go()).status_code == 200


def test_a_prompt_that_is_too_long_is_not_rendered_for_its_marks(monkeypatch):
    engine, rendered = ScriptedEngine(context=20), []
    encode = type(engine.tokenizer).encode_chat
    monkeypatch.setattr(
        type(engine.tokenizer), "encode_chat",
        lambda *a, **k: rendered.append(1) or encode(*a, **k),
    )  # fmt: skip
    answer = ask(engine, CHAT, {"messages": [{"role": "user", "content": "x" * 30}]})
    assert answer.json()["error"]["code"] == "context_length_exceeded" and len(rendered) == 1


def test_sampling_is_the_bodys_then_the_models_then_ours():
    body = {"messages": [USER], "temperature": 0.25, "seed": 7, "stop": "x", "min_p": 0.5,
            "repeat_penalty": 1.5, "logit_bias": {"65": 2}, "presence_penalty": 0.5,
            "stop_token_ids": [3], "ignore_eos": True, "min_tokens": 2, "top_k": 5,
            "max_completion_tokens": 30, "max_tokens": 3, "logprobs": True}  # fmt: skip
    chosen = job(CHAT, body, ScriptedEngine(defaults={"top_p": 0.8, "temperature": 0.6})).sampling
    assert (chosen.temperature, chosen.top_p, chosen.top_k, chosen.min_p) == (0.25, 0.8, 5, 0.5)
    assert (chosen.seed, chosen.stop, chosen.repetition_penalty) == (7, ("x",), 1.5)
    assert chosen.bias == {65: 2} and chosen.stop_ids == {3} and chosen.ignore_eos
    assert (chosen.min_tokens, chosen.max_tokens, chosen.top_logprobs) == (2, 30, 0)
    one, two = (job(CHAT, {"messages": [USER]}).sampling for _ in range(2))
    assert one.seed != two.seed and one.temperature == 1 and one.max_tokens is None
    assert job("/v1/completions", {"prompt": "a"}).sampling.max_tokens == 16


def test_who_asks():
    def whose(headers, **body):
        engine = ScriptedEngine()
        ask(engine, CHAT, {"messages": [USER], **body}, headers=headers)
        return engine.jobs[0].client

    here = whose({})
    assert here == "127.0.0.1/"
    assert whose({"x-session-id": "s1"}) == whose({"session-id": "s1"}) == f"{here}s1"
    assert whose({"x-claude-code-session-id": "s2"}) == f"{here}s2"
    assert whose({}, prompt_cache_key="s2") == f"{here}s2" and whose({}, user="me") == f"{here}me"
    assert whose({"x-api-key": "made up"}) == here  # where no key is asked for


def test_the_key_that_lets_a_request_in_says_whose_it_is():
    def job_of(keys=("one", "two"), **headers):
        engine = ScriptedEngine()
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        ask(engine, CHAT, {"messages": [USER]}, headers=headers, api_keys=keys)
        return engine.jobs[0]

    plain, other = job_of(authorization="Bearer one"), job_of(x_api_key="two")
    more = job_of(authorization="Bearer one", x_api_key="random", x_session_id="s")
    assert plain.scope == more.scope != other.scope
    alone = job_of(("one",), authorization="Bearer one")  # a key more later changes nothing of it
    assert alone.scope == plain.scope != job_of(()).scope
    assert more.client == f"{plain.client}s" and "one" not in plain.client
    assert plain.client.partition("/")[0] != other.client.partition("/")[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CLAUDE, RESPONSES])
def test_warnings_are_a_short_header_of_ascii(path, stream):
    odd = [{"type": "\u4e00\r\nX: y", "name": "x"}] * 40
    body = {"tools": odd, "stream": stream, "messages": [USER], "max_tokens": 5, "input": "hi"}
    answer = ask(ScriptedEngine(), path, body)
    assert answer.status_code == 200
    said = answer.headers["x-moeflux-warning"]
    assert "\\u4e00\\r\\nX: y" in said and len(said) <= 1024


def test_texts_are_joined_once(monkeypatch):
    def parts(kind):
        return [{"type": kind, "text": str(i)} for i in range(50)]

    copies = []
    monkeypatch.setattr(dialogue, "replace", lambda *a, **k: copies.append(a) or replace(*a, **k))
    monkeypatch.setattr(anthropic_content, "replace", dialogue.replace, raising=False)
    plain = job(CLAUDE, {"system": parts("text"), "max_tokens": 5, "messages": [
        {"role": "user", "content": parts("text")}]})  # fmt: skip
    assert text(plain).count("49") == 2 and len(copies) == 1


def test_parts_of_an_answer_are_one_turn():
    said = [{"role": "assistant", "content": word} for word in ("a", "b", "c")]
    asked = job(RESPONSES, {"input": [{"role": "user", "content": "hi"}, *said,
                                      {"role": "user", "content": "hi"}]})  # fmt: skip
    assert text(asked) == f"{HI}{HEAD}abc<|im_end|>\n{HI}{HEAD}"


def test_chatml_serves_a_model_without_a_template():
    engine = ScriptedEngine(template="")
    asked = job(CHAT, {"messages": [USER]}, engine, chat_template=CHATML)
    assert text(asked) == HI + HEAD


@pytest.mark.parametrize(
    ("given", "taken"), [("call_0123456789", "123456789"), ("c1", "0000000c1")]
)
def test_a_template_that_asks_for_ids_of_nine_letters_gets_them(given, taken):
    """As Mixtral-8x22B's does, which refuses others."""
    template = (
        "{% for m in messages %}{% for call in m.tool_calls %}{% if call.id|length != 9 %}"
        "{{ raise_exception('nine letters') }}{% endif %}[TOOL_CALLS] {{ call.id }}{% endfor %}"
        "{{ m.tool_call_id }}.{% endfor %}"
    )
    call = {"id": given, "type": "function",
            "function": {"name": "get_weather", "arguments": "{}"}}  # fmt: skip
    asked = job(CHAT, {"tools": [TOOL], "messages": [
        USER, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}]},
        ScriptedEngine(template=template))  # fmt: skip
    assert text(asked) == f".[TOOL_CALLS] {taken}.{taken}."


def test_a_completion_is_scored_with_its_prompt():
    body = {"prompt": [[97, 98], [99, 100, 101]], "echo": True, "logprobs": 1, "max_tokens": 0}
    found = ask(ScriptedEngine(), "/v1/completions", body).json()
    first, second = found["choices"]
    assert (first["index"], second["index"]) == (0, 1)
    assert first["text"] == "ab" and second["logprobs"]["tokens"] == ["c", "d", "e"]
    assert second["logprobs"]["token_logprobs"] == [None, -1.5, -1.5]
    assert second["logprobs"]["top_logprobs"][1] == {"e": -0.5, "d": -1.5}
    assert second["logprobs"]["text_offset"] == [0, 1, 2]
    assert found["usage"]["prompt_tokens"] == 5


def test_a_completion_that_is_only_scored_is_a_job_of_its_client():
    engine = ScriptedEngine()
    body = {"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0, "n": 2, "user": "me"}
    found = ask(engine, "/v1/completions", body, headers={"x-request-id": "r1"}).json()
    (asked,) = engine.jobs
    assert (asked.client, asked.id, asked.n, asked.echo) == ("127.0.0.1/me", "r1", 1, 1)
    assert [choice["text"] for choice in found["choices"]] == ["ab", "ab"]
    assert [choice["finish_reason"] for choice in found["choices"]] == ["length"] * 2


def test_bytes_of_a_character_have_names_of_their_own():
    body = {"prompt": "é", "echo": True, "logprobs": 0, "max_tokens": 0}
    found = ask(ScriptedEngine(), "/v1/completions", body).json()["choices"][0]
    assert found["text"] == "é"
    assert found["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]


def test_tokens_and_back():
    engine = ScriptedEngine()
    ours = ask(engine, "/tokenize", {"content": "hé", "with_pieces": True}).json()
    assert ours["tokens"][0] == {"id": 104, "piece": "h"}
    assert ours["tokens"][1]["piece"] == [0xC3]
    theirs = ask(engine, "/tokenize", {"prompt": "hé", "return_token_strs": True}).json()
    assert theirs["tokens"] == [104, 195, 169] and theirs["count"] == 3
    assert theirs["max_model_len"] == engine.info.context
    chat = ask(engine, "/tokenize", {"messages": [USER]}).json()["tokens"]
    assert chat == list(job(CHAT, {"messages": [USER]}).ids)
    back = ask(engine, "/detokenize", {"tokens": chat}).json()
    assert back["prompt"] == back["content"] == HI + HEAD
    assert ask(engine, "/apply-template", {"messages": [USER]}).json() == {"prompt": HI + HEAD}
    info = ask(engine, "/tokenizer_info", method="GET").json()
    assert info["eos_token"] == "<|im_end|>" and info["chat_template"] == TEMPLATE


# Grammars, by llguidance on the tokenizer of the tests.
SPEC = ToolSpec("get_weather", "", WEATHER["parameters"], strict=True)
OTHER = ToolSpec("g", "", {"type": "object", "properties": {}, "additionalProperties": False})
TURNS = (Turn("user", "hi"),)


@pytest.fixture(scope="module")
def accepts(tmp_path_factory):
    """Whether a rule lets all of a text through, and lets the answer end there."""
    found = {}
    for name, tokens in (("tokens", dict.fromkeys(markups.TAGS, True) | TOKENS), ("text", {})):
        folder = tmp_path_factory.mktemp(name)
        write_tokenizer(folder, tokens)
        source = Path(folder / "tokenizer.json").read_text()
        ids = {token["content"]: token["id"] for token in json.loads(source)["added_tokens"]}
        found[name] = LLTokenizer(source, eos_token=256), ids

    def accepts(dialogue, markup, said, *, opened=False, kind="tokens"):
        vocabulary, tokens = found[kind]
        rule = rule_of(dialogue, markup, opened, tokens.get)
        assert rule.kind == "lark", rule
        matcher = LLMatcher(vocabulary, rule.source)
        assert not matcher.is_error(), matcher.get_error()
        ids = vocabulary.tokenize_str(said, parse_special=True)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return accepts


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def xml(name, *parameters):
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


JSON, XML = find_markup("<think><tool_call>"), find_markup("<think><tool_call><function=")
PARIS = call("get_weather", '{"city": "Paris"}')
XML_PARIS = xml("get_weather", ("city", "Par\nis"), ("days", "3"))
BOTH = (SPEC, OTHER)
REQUIRED = Dialogue(TURNS, BOTH, "required")


def listed(*calls):
    """As a grammar has Mixtral write them, each (name, arguments)."""
    inner = (f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in calls)
    return f"[TOOL_CALLS][{', '.join(inner)}]"


CASES = [
    (REQUIRED, JSON, PARIS, True),
    (REQUIRED, JSON, f"{PARIS}\n{call('g', '{}')}", True),
    (REQUIRED, JSON, f"<think>\nHm.\n</think>\n\n{PARIS}", True),
    (REQUIRED, JSON, "Hello.", False),
    (REQUIRED, JSON, call("get_weather", "{}"), False),
    (REQUIRED, JSON, call("h", "{}"), False),
    (Dialogue(TURNS, BOTH, "g"), JSON, call("g", "{}"), True),
    (Dialogue(TURNS, BOTH, "g"), JSON, PARIS, False),
    (Dialogue(TURNS, BOTH, "required", parallel=False), JSON, f"{PARIS}\n{PARIS}", False),
    (REQUIRED, XML, XML_PARIS, True),
    (REQUIRED, XML, xml("g"), True),
    (REQUIRED, XML, xml("get_weather", ("days", "3")), False),
    (REQUIRED, XML, xml("get_weather", ("city", "x"), ("days", "many")), False),
    (REQUIRED, markups.GLM, markups.glm("get_weather", ("city", "Par\nis"), ("days", "3")), True),
    (REQUIRED, markups.GLM, f"{markups.glm('g')}\n{markups.glm('g')}", True),
    (REQUIRED, markups.GLM, markups.glm("get_weather", ("days", "3")), False),
    (REQUIRED, markups.GLM, markups.glm("get_weather", ("city", "x"), ("days", "many")), False),
    (REQUIRED, markups.MINIMAX, markups.minimax(("get_weather", ("city", "x")), ("g",)), True),
    (REQUIRED, markups.MINIMAX, markups.minimax(("get_weather", ("days", "3"))), False),
    (REQUIRED, markups.MINIMAX, "<minimax:tool_call>\n</minimax:tool_call>", False),
    (REQUIRED, markups.KIMI, markups.kimi(("get_weather", '{"city": "x"}'), ("g", "{}")), True),
    (REQUIRED, markups.KIMI, markups.kimi(("get_weather", "{}")), False),
    (REQUIRED, markups.KIMI, markups.kimi(("h", "{}")), False),
    (REQUIRED, markups.DEEPSEEK, markups.deepseek(("get_weather", '{"city": "x"}')), True),
    (REQUIRED, markups.DEEPSEEK, markups.deepseek(("get_weather", "{}"), ("g", "{}")), False),
    (Dialogue(TURNS, BOTH, "g"), markups.DEEPSEEK, markups.deepseek(("g", "{}")), True),
    (REQUIRED, markups.HARMONY, markups.harmony("get_weather", '{"city": "x"}'), True),
    (REQUIRED, markups.HARMONY, markups.ANALYSIS + markups.harmony("g", "{}"), True),
    (REQUIRED, markups.HARMONY, markups.harmony("get_weather", "{}"), False),
    (REQUIRED, markups.HARMONY, "<|channel|>final<|message|>Hello.", False),
    (REQUIRED, markups.GEMMA, markups.gemma("get_weather", 'city:<|"|>Par\nis<|"|>,days:3'), True),
    (REQUIRED, markups.GEMMA, markups.gemma("g") + markups.gemma("g"), True),
    (REQUIRED, markups.GEMMA, "<|channel>thought\nHm.\n<channel|>" + markups.gemma("g"), True),
    (REQUIRED, markups.GEMMA, markups.gemma("get_weather", "days:3"), False),
    (REQUIRED, markups.GEMMA, markups.gemma("get_weather", 'city:<|"|>x<|"|>,days:a'), False),
    (REQUIRED, markups.LFM, markups.lfm('get_weather(city="Par\\nis", days=3)', "g()"), True),
    (REQUIRED, markups.LFM, markups.lfm("get_weather(days=3)"), False),
    (REQUIRED, markups.LFM, markups.lfm('get_weather(city="x", days="a")'), False),
    (REQUIRED, markups.LFM, markups.lfm(), False),
    (REQUIRED, markups.MISTRAL, markups.mistral("get_weather", '{"city": "x"}'), True),
    (REQUIRED, markups.MISTRAL, "[THINK]Hm.[/THINK]" + markups.mistral("g", "{}") * 2, True),
    (REQUIRED, markups.MISTRAL, markups.mistral("get_weather", "{}"), False),
    (REQUIRED, markups.MIXTRAL, listed(("get_weather", '{"city": "x"}'), ("g", "{}")), True),
    (REQUIRED, markups.MIXTRAL, listed(("get_weather", "{}")), False),
    (REQUIRED, markups.MIXTRAL, listed(), False),
    (Dialogue(TURNS, BOTH, "g"), markups.MIXTRAL, listed(("g", "{}"), ("g", "{}")), False),
]


@pytest.mark.parametrize("kind", ["tokens", "text"])
@pytest.mark.parametrize(("dialogue", "markup", "said", "good"), CASES)
def test_calls_that_are_asked_for(accepts, dialogue, markup, said, good, kind):
    assert accepts(dialogue, markup, said, kind=kind) == good


NESTED = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "enum": ["x y", "z"]},
        "b": {"type": "array", "items": {"type": "string"}},
        "c": {"type": "object", "properties": {"k l": {"type": "integer"}, "m": {}},
              "required": ["m"]},
        "d": {"type": "string", "maxLength": 2},
    },
}  # fmt: skip
DEEP = Dialogue(TURNS, (ToolSpec("f", "", NESTED, strict=True),), "required")


@pytest.mark.parametrize("kind", ["tokens", "text"])
@pytest.mark.parametrize(
    ("markup", "said", "good"),
    [
        (markups.GEMMA, 'a:<|"|>x y<|"|>,b:[<|"|>"<|"|>,<|"|><|"|>],c:{m:"w"},d:"éa"', True),
        (markups.GEMMA, 'b:[],c:{"k l":3,m:null}', True),
        (markups.GEMMA, "", True),
        (markups.GEMMA, 'a:<|"|>x<|"|>', False),
        (markups.GEMMA, 'b:["x"]', False),
        (markups.GEMMA, 'c:{"k l":3}', False),
        (markups.GEMMA, 'd:"abc"', False),
        (markups.GEMMA, ",b:[]", False),
        (markups.GEMMA, "b:[],", False),
        (markups.LFM, 'a="x y", b=["\\""], c={"m": null}', True),
        (markups.LFM, 'c={"k l": 3, "m": 1}', True),
        (markups.LFM, "", True),
        (markups.LFM, 'a="x"', False),
        (markups.LFM, 'a="z", ', False),
        (markups.LFM, "c={}", False),
    ],
)
def test_literals_of_a_schema(accepts, markup, said, good, kind):
    write = {markups.GEMMA: markups.gemma, markups.LFM: lambda name, a: markups.lfm(f"{name}({a})")}
    text = write[markup]("f", said)
    assert accepts(DEEP, markup, text, kind=kind) == good
    if good:
        parser = Parser(0, markup, {"f": NESTED}, opened=False, whole=True, parallel=True,
                        new_id=lambda: "id")  # fmt: skip
        start, arguments = parser.push(text)
        assert start.name == "f" and isinstance(json.loads(arguments.text), dict)


@pytest.mark.parametrize("kind", ["tokens", "text"])
def test_calls_behind_reasoning_that_the_prompt_began(accepts, kind):
    assert accepts(REQUIRED, JSON, f"Hm.\n</think>\n\n{PARIS}", opened=True, kind=kind)
    assert not accepts(REQUIRED, JSON, PARIS, opened=True, kind=kind)


def test_strict_tools_hold_the_calls_of_an_answer_that_needs_none(accepts):
    auto = Dialogue(TURNS, BOTH)
    for good in ("Hello.", PARIS, f"Sure.\n{PARIS}\n{call('g', '{}')}", "<think>Hm.</think> a"):
        assert accepts(auto, JSON, good), good
    for wrong in (call("h", "{}"), call("get_weather", '{"city": 3}')):
        assert not accepts(auto, JSON, wrong), wrong
    assert rule_of(Dialogue(TURNS, (OTHER,)), JSON, False, lambda tag: 256) is None


@pytest.mark.parametrize("kind", ["tokens", "text"])
def test_content_of_a_schema_may_come_behind_reasoning(accepts, kind):
    schema = json.dumps({"type": "object", "properties": {"a": {"type": "integer"}},
                         "required": ["a"], "additionalProperties": False})  # fmt: skip
    asked = Dialogue(TURNS, output=OutputRule("json_schema", schema))
    for good in ('{"a": 1}', '<think>\nHm.\n</think>\n\n{"a": 1}'):
        assert accepts(asked, JSON, good, kind=kind), good
    assert not accepts(asked, JSON, '{"a": "x"}', kind=kind)
    assert not accepts(asked, JSON, "Hm.", kind=kind)
    assert accepts(asked, JSON, 'Hm.</think>{"a": 1}', opened=True, kind=kind)
    assert rule_of(asked, Markup(), False, lambda tag: None) == asked.output


def test_tools_that_are_not_strict_leave_out_what_cannot_be_held(accepts):
    parameters = {"type": "object", "propertyNames": {"pattern": "^a"}, "properties": {"a": {}}}

    def asked(strict):
        return Dialogue(TURNS, (ToolSpec("f", "", parameters, strict),), "required")

    assert accepts(asked(False), JSON, call("f", '{"a": 1}'))
    with pytest.raises(AssertionError, match="propertyNames"):
        accepts(asked(True), JSON, call("f", '{"a": 1}'))


def test_white_space_within_a_call_is_bounded(accepts):
    assert accepts(REQUIRED, JSON, PARIS.replace('"city": ', '"city":' + " " * 32))
    assert not accepts(REQUIRED, JSON, PARIS.replace('"city": ', '"city":' + " " * 33))


@pytest.mark.parametrize("enum", [5, {}, None])
def test_an_enum_that_is_no_list_is_refused(enum):
    spec = ToolSpec("f", "", {"properties": {"a": {"type": "string", "enum": enum}}})
    with pytest.raises(ApiError, match="expected a list as the enum of 'a'"):
        rule_of(Dialogue(TURNS, (spec,), "required"), XML, False, lambda tag: 256)


@pytest.mark.parametrize("markup", [XML, markups.GEMMA, markups.LFM])
def test_definitions_are_written_where_they_are_referred_to(markup):
    """A grammar of a tool of 14 kB had 3 MB; one of a megabyte would have had 20 GB."""

    def grammar(value):
        parameters = {"properties": {f"a{i}": value for i in range(300)},
                      "$defs": {"d": {"type": "integer", "description": "x" * 10_000}}}  # fmt: skip
        asked = Dialogue(TURNS, (ToolSpec("f", "", parameters),), "required")
        return rule_of(asked, markup, False, lambda tag: 256).source

    assert len(grammar({"type": "integer"})) < 100_000
    with pytest.raises(ApiError, match="whose grammar has at most") as refused:
        grammar({"$ref": "#/$defs/d"})
    assert refused.value.status == 400


def test_content_or_a_call(accepts):
    asked = Dialogue(TURNS, BOTH, output=OutputRule("json_schema", '{"type": "integer"}'))
    for good, said in itertools.product([True], ["3", PARIS]):
        assert accepts(asked, JSON, said) == good, said
    assert not accepts(asked, JSON, "Hello.")


def test_renderers_say_what_a_template_knows():
    assert Renderer(tokenizer()).markup == JSON
    assert Renderer(tokenizer(), "off").markup.think is None
    assert Renderer(tokenizer(CHATML)).markup == Markup()


def test_calls_are_forgotten_before_they_fill_memory(monkeypatch):
    monkeypatch.setattr("moeflux.serve.render.MAX_REPLAYED", 3 * 258 + 10)
    replay = Replay()
    for i in range(5):
        replay.keep(f"c{i}", "{}", None if i else "thought")
    known = [i for i in range(5) if replay.arguments(Call(f"c{i}", "f", " {}")) == "{}"]
    assert known == [2, 3, 4]
