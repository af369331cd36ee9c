"""Markup of models: the same events however the text is cut, and what a broken call becomes."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeflux.serve.events import CallArguments, CallStart, Reasoning, Text
from moeflux.serve.parse import markup as markup_module
from moeflux.serve.parse.calls import MAX_HEAD
from moeflux.serve.parse.markup import HERMES, QWEN_CODER, Markup, find_markup
from moeflux.serve.parse.parser import Parser
from oracle import goldens
from support import markups

THINK = ("<think>", "</think>")
JSON, XML = Markup(THINK, form=HERMES), Markup(THINK, form=QWEN_CODER)
SCHEMA = {
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "tags": {"type": "array"},
        "any": {},
    }
}
TOOLS = {"f": SCHEMA, "g": {}}


def read(pieces, markup, *, opened=False, whole=False, parallel=True, tools=TOOLS):
    """What a parser makes of pieces: neighbours of one kind joined, calls as (name, arguments)."""
    number = itertools.count()
    parser = Parser(
        0, markup, tools, opened=opened, whole=whole, parallel=parallel,
        new_id=lambda: f"id{next(number)}",
    )  # fmt: skip
    found = [e for piece in pieces for e in parser.push(piece, 1)] + parser.finish()
    out = []
    for event in found:
        if isinstance(event, CallStart):
            assert event.index == sum(kind == "call" for kind, *_ in out)
            out.append(["call", event.name, ""])
        elif isinstance(event, CallArguments):
            assert event.index == sum(kind == "call" for kind, *_ in out) - 1
            assert out[-1][0] == "call"
            out[-1][2] += event.text
        else:
            kind = {Text: "text", Reasoning: "reasoning"}[type(event)]
            assert event.text
            if out and out[-1][0] == kind:
                out[-1][1] += event.text
            else:
                out.append([kind, event.text])
    return [tuple(item) for item in out]


ONE = '<tool_call>\n{"name": "f", "arguments": {"city": "a }{ \\" </tool_call> b"}}\n</tool_call>'
TWO = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
XML_ONE = (
    "<tool_call>\n<function=f>\n<parameter=city>\nline 1\n<b>line</b> 2\n</parameter>\n"
    '<parameter=days>\n3\n</parameter>\n<parameter=tags>\n["x", true]\n</parameter>\n'
    "</function>\n</tool_call>"
)
XML_ARGUMENTS = '{"city": "line 1\\n<b>line</b> 2", "days": 3, "tags": ["x", true]}'
CALL_ONE = ("call", "f", '{"city": "a }{ \\" </tool_call> b"}')
GLM_ONE = markups.glm("f", ("city", "a\n<b>"), ("days", "3"), ("tags", '["x", true]'))
GLM_CALL = ("call", "f", '{"city": "a\\n<b>", "days": 3, "tags": ["x", true]}')
GOLDENS = [
    ("Hello.\n", JSON, [("text", "Hello.\n")]),
    ("a <tool b", JSON, [("text", "a <tool b")]),
    ("<think>\nHm.\n</think>\n\nYes.", JSON, [("reasoning", "Hm."), ("text", "Yes.")]),
    ("\n<think>\n\n</think>\n\nYes.", JSON, [("text", "Yes.")]),
    ("Say <think> aloud.", JSON, [("text", "Say <think> aloud.")]),
    ("<think>never ends ", JSON, [("reasoning", "never ends ")]),
    (f"Sure.\n{ONE}\n{TWO}", JSON, [("text", "Sure."), CALL_ONE, ("call", "g", "{}")]),
    (f"<think>\nHm.\n</think>\n\n{ONE}", JSON, [("reasoning", "Hm."), CALL_ONE]),
    (
        '<tool_call>{"arguments": {"city": "x"}, "name": "f"}</tool_call>', JSON,
        [("call", "f", '{"city": "x"}')],
    ),
    (XML_ONE, XML, [("call", "f", XML_ARGUMENTS)]),
    (f"{XML_ONE}\n{XML_ONE}", XML, [("call", "f", XML_ARGUMENTS)] * 2),
    ("<tool_call>\n<function=g>\n</function>\n</tool_call>", XML, [("call", "g", "{}")]),
    (
        "<tool_call>\n<function=f>\n<parameter=any>\n</parameter>\n</function>\n</tool_call> ok",
        XML, [("call", "f", '{"any": ""}'), ("text", "ok")],
    ),
    (
        "<tool_call>\n<function=f>\n<parameter=days>\nmany\n</parameter>\n</function>\n</tool_call>",
        XML, [("call", "f", '{"days": "many"}')],
    ),
    (
        f"<think>Hm.</think>\nSure.\n{GLM_ONE}\n{markups.glm('g')}", markups.GLM,
        [("reasoning", "Hm."), ("text", "Sure."), GLM_CALL, ("call", "g", "{}")],
    ),
    (GLM_ONE.replace("\n<arg", "<arg"), markups.GLM, [GLM_CALL]),  # as GLM 4.7 writes it
    (
        "Sure.\n" + markups.minimax(("f", ("city", "a\n<b>"), ("days", "3")), ("g",)) + "\nok",
        markups.MINIMAX,
        [("text", "Sure."), ("call", "f", '{"city": "a\\n<b>", "days": 3}'), ("call", "g", "{}"),
         ("text", "ok")],
    ),
    (
        "Sure." + markups.kimi(("f", '{"city": "<|tool_call_end|>"}'), ("g", "{}")), markups.KIMI,
        [("text", "Sure."), ("call", "f", '{"city": "<|tool_call_end|>"}'), ("call", "g", "{}")],
    ),
    (
        "<think>Hm.</think>" + markups.deepseek(("f", '{"city": "x"}'), ("g", "{}")),
        markups.DEEPSEEK,
        [("reasoning", "Hm."), ("call", "f", '{"city": "x"}'), ("call", "g", "{}")],
    ),
    (
        markups.deepseek_v3("f", '{"city": "x"}'), markups.DEEPSEEK,
        [("call", "f", '{"city": "x"}')],
    ),
    (
        markups.ANALYSIS + "<|channel|>final<|message|>Yes.<|return|>", markups.HARMONY,
        [("reasoning", "Hm."), ("text", "Yes.")],
    ),
    (
        markups.ANALYSIS + markups.harmony("f", '{"city": "<x>"}'), markups.HARMONY,
        [("reasoning", "Hm."), ("call", "f", '{"city": "<x>"}')],
    ),
    (  # the token that ends a call ends the answer, and is no part of it
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + markups.ANALYSIS
        + markups.harmony("g", "{}").removesuffix("<|call|>"), markups.HARMONY,
        [("text", "I look."), ("reasoning", "Hm."), ("call", "g", "{}")],
    ),
    (
        " to=functions.g<|channel|>commentary json<|message|>{}<|call|>", markups.HARMONY,
        [("call", "g", "{}")],
    ),
    (
        "<|channel>thought\nHm.\n<channel|>Sure." + markups.gemma("f", 'city:<|"|>a "b"\\n, }<|"|>,'
        'days:3,tags:[<|"|>x<|"|>,true,null]') + markups.gemma("g") + "<|tool_response>",
        markups.GEMMA,
        [("reasoning", "Hm."), ("text", "Sure."),
         ("call", "f", '{"city": "a \\"b\\"\\\\n, }", "days": 3, "tags": ["x", true, null]}'),
         ("call", "g", "{}")],
    ),
    (
        markups.gemma("f", "any:{a:1,<|\"|>b c<|\"|>:{}},city: New York ,tags:[]"), markups.GEMMA,
        [("call", "f", '{"any": {"a": 1, "b c": {}}, "city": "New York", "tags": []}')],
    ),
    ("a <|tool b <|channel> c", markups.GEMMA, [("text", "a <|tool b <|channel> c")]),
    (
        markups.lfm("f(city=\"it's\\n\\u00e9\", days=-3)", "g()") + "I look.", markups.LFM,
        [("call", "f", '{"city": "it\'s\\né", "days": -3}'), ("call", "g", "{}"),
         ("text", "I look.")],
    ),
    (
        markups.lfm("f(tags=['a', \"b\", (1, 2.5e3)], any={'k': None, 'l': [True, False]},)"),
        markups.LFM,
        [("call", "f", '{"tags": ["a", "b", [1, 2.5e3]], "any": {"k": null, "l": [true, false]}}')],
    ),
    (
        markups.lfm(r"""f(city='\ud83d\ude00 \d \x41\'"\U0001f600')"""), markups.LFM,
        [("call", "f", r'''{"city": "\ud83d\ude00 \\d A'\"😀"}''')],
    ),
    (
        "[THINK]Hm.[/THINK]Sure." + markups.mistral("f", '{"city": "[TOOL_CALLS]"}')
        + markups.mistral("g", "{}"), markups.MISTRAL,
        [("reasoning", "Hm."), ("text", "Sure."), ("call", "f", '{"city": "[TOOL_CALLS]"}'),
         ("call", "g", "{}")],
    ),
    (
        "[TOOL_CALLS]g[CALL_ID]aB3[ARGS]{} ok", markups.MISTRAL,
        [("call", "g", "{}"), ("text", "ok")],
    ),
    (
        "Sure. " + markups.mixtral(("f", '{"city": "a ]}, {b", "any": {"k": [1]}}'), ("g", "{}")),
        markups.MIXTRAL,
        [("text", "Sure."), ("call", "f", '{"city": "a ]}, {b", "any": {"k": [1]}}'),
         ("call", "g", "{}")],
    ),
    (
        '[TOOL_CALLS][ { "name":"g","arguments":{} } , ] ok', markups.MIXTRAL,
        [("call", "g", "{}"), ("text", "ok")],
    ),
    (
        '[TOOL_CALLS] {"name": "g", "arguments": {}} ok', markups.MIXTRAL,
        [("call", "g", "{}"), ("text", "ok")],
    ),
    (
        markups.lfm_json(("f", '{"city": "x"}'), ("g", "{}")) + "I look.", markups.LFM,
        [("call", "f", '{"city": "x"}'), ("call", "g", "{}"), ("text", "I look.")],
    ),
]  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("text", "markup", "expected"), GOLDENS)
def test_text_is_read_alike_however_it_is_cut(text, markup, expected, whole):
    assert read([text], markup, whole=whole) == expected
    assert read(list(text), markup, whole=whole) == expected
    for at in range(1, len(text)):
        assert read([text[:at], text[at:]], markup, whole=whole) == expected


@given(st.sampled_from(GOLDENS), st.lists(st.integers(1, 200), max_size=8), st.booleans())
@settings(max_examples=150, deadline=None)
def test_random_cuts_change_nothing(golden, cuts, whole):
    text, markup, expected = golden
    places = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert read(pieces, markup, whole=whole) == expected


BROKEN = [
    ("<tool_call>\nnot JSON\n</tool_call>", JSON),
    ('<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>', JSON),
    ('<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>', JSON),
    ('<tool_call>\n{"name": 3}\n</tool_call>', JSON),
    ('<tool_call>\n{"name": "f", "arg', JSON),
    ("<tool_call>\n<function=nobody>\n</function>\n</tool_call>", XML),
    ("<tool_call>\nfunction f\n</tool_call>", XML),
    (markups.glm("nobody"), markups.GLM),
    ("<tool_call>no name</tool_call>", markups.GLM),
    ('<invoke name="nobody">\n</invoke>', markups.MINIMAX),
    ("<|tool_call_begin|>functions.f:0 {}<|tool_call_end|>", markups.KIMI),
    (
        "<|tool_call_begin|>functions.nobody:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        markups.KIMI,
    ),
    ("<｜tool▁call▁begin｜>f {}<｜tool▁call▁end｜>", markups.DEEPSEEK),
    ("to=functions.nobody<|message|>{}<|call|>", markups.HARMONY),
    (markups.gemma("nobody"), markups.GEMMA),
    ("<|tool_call>f{}<tool_call|>", markups.GEMMA),
    ("<|tool_call>call:f", markups.GEMMA),
    (markups.lfm("nobody()"), markups.LFM),
    (markups.lfm_json(("nobody", "{}")), markups.LFM),
    (markups.lfm('{"arguments": {}, "name": "f"}'), markups.LFM),
    (markups.lfm(), markups.LFM),
    (markups.mixtral(("nobody", "{}")), markups.MIXTRAL),
    ("[TOOL_CALLS] [{}]", markups.MIXTRAL),
    ("[TOOL_CALLS] []", markups.MIXTRAL),
    ("[TOOL_CALLS] I call none.", markups.MIXTRAL),
    ('[TOOL_CALLS] [{"name": "f", "arguments": "{}"}]', markups.MIXTRAL),
    ('[TOOL_CALLS] [{"name": "f", "arg', markups.MIXTRAL),
    ("[TOOL_CALLS]nobody[ARGS]{}", markups.MISTRAL),
    ("[TOOL_CALLS][{}]", markups.MISTRAL),
    ("[TOOL_CALLS]f", markups.MISTRAL),
]
# Whole, these are text; a stream has given out their names by the time that it shows.
BROKEN_LATE = [
    ("<|tool_call>call:f{days:3", markups.GEMMA),
    *(
        (markups.gemma("f", inner), markups.GEMMA)
        for inner in (
            "days:",
            "days:,",
            "days 3",
            '<|"|>x<|"|>',
            'city:<|"|>x<|"|> y',
            "any:[1}",
            "any:a(b)",
        )
    ),
    *(
        (markups.lfm(call), markups.LFM)
        for call in (
            'f("x")',
            "f(3)",
            "f(days:3)",
            "f(city='a' 'b')",
            "f(tags=[1)",
            "f(days=g())",
            "f(days=3",
        )
    ),
]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("text", "markup"), BROKEN)
def test_a_call_that_is_none_is_text(text, markup, whole):
    for pieces in ([text], list(text)):
        assert read(pieces, markup, whole=whole) == [("text", text)]


CALLS = json.loads((goldens.FOLDER / "calls.json").read_text(encoding="utf-8"))
READ = [(case["text"], case["calls"], markup)
        for key, markup in (("gemma", markups.GEMMA), ("lfm", markups.LFM))
        for case in CALLS[key]]  # fmt: skip


@pytest.mark.parametrize(("text", "calls", "markup"), READ)
def test_literals_mean_what_transformers_reads(text, calls, markup):
    """tools/goldens/calls.py writes what it reads; null is a call that it refuses."""
    for pieces in ([text], list(text)):
        found = read(pieces, markup, whole=True)
        if calls is None:
            assert found == [("text", text)]
        else:
            assert [[name, json.loads(inner)] for _, name, inner in found] == calls
            assert read(pieces, markup) == found


@pytest.mark.parametrize(("text", "markup"), BROKEN_LATE)
def test_literals_that_are_none_are_text_unless_they_have_begun(text, markup):
    for pieces in ([text], list(text)):
        assert read(pieces, markup, whole=True) == [("text", text)]
        (kind, name, arguments), *rest = read(pieces, markup)
        assert (kind, name, rest) == ("call", "f", [])
        with pytest.raises(json.JSONDecodeError):
            json.loads(arguments)


def test_text_behind_a_call_that_is_none_is_read_however_it_is_cut():
    """Found by fuzzing: what came in one piece with a broken call was given out with its tags."""
    good = markups.minimax(("g",))
    text = markups.minimax(("nobody", ("city", "x"))) + "\n" + good
    cut = [[text], list(text), [text[:40], text[40:]]]
    (first, *others) = [read(pieces, markups.MINIMAX) for pieces in cut]
    assert first[-1] == ("call", "g", "{}") and all(other == first for other in others)
    assert "</minimax:tool_call>" not in first[0][1]


def test_a_call_behind_a_good_one_is_text_where_it_is_none():
    text = markups.lfm("g()", "nobody(x=1)")
    assert read([text], markups.LFM) == [
        ("call", "g", "{}"), ("text", " nobody(x=1)]<|tool_call_end|>"),
    ]  # fmt: skip


def test_a_list_of_calls_may_end_with_a_comma():
    text = "<|tool_call_start|>[g(),\n]<|tool_call_end|>ok"
    for pieces in ([text], list(text)):
        assert read(pieces, markups.LFM) == [("call", "g", "{}"), ("text", "ok")]


@pytest.mark.parametrize("markup", (*markups.ALL, JSON, XML))
def test_the_head_of_a_call_has_a_bound(markup):
    """Where it were read again with each piece, blanks without an end would stop the server."""
    for filler in (" ", "x"):
        text = markup.call[0] + filler * 3 * MAX_HEAD
        found = [read(cut, markup) for cut in ([text], [text[:9], text[9:]])]
        assert found[0] == found[1]
    parser = Parser(0, markup, TOOLS, opened=False, whole=False, parallel=True, new_id=str)
    parser.push(markup.call[0])
    for _ in range(MAX_HEAD):
        parser.push(" ")
    in_any_order = getattr(markup.form, "keys", False)  # of one JSON object, which ends the call
    assert (parser._call is None) != in_any_order


@pytest.mark.parametrize("name", ["LFM", "MISTRAL", "JSON_LIST"])
def test_heads_are_matched_in_steps_that_grow_with_their_length(name):
    """Blanks that two parts of a pattern could take were tried in every way."""
    pattern = getattr(markup_module, name).head.pattern
    assert r"\s*\[?\s*" not in pattern and r"\s*\w*\s*" not in pattern


@pytest.mark.parametrize("text", ['{"arguments": {"a": "\\ud800"}, "name": "f"}', None])
def test_half_a_surrogate_pair_stays_an_escape(text):
    if text is None:
        found = read([XML_ONE.replace("\n3\n", '\n"\\ud800"\n')], XML)
    else:
        found = read([f"<tool_call>{text}</tool_call>"], JSON)
    assert r"\ud800" in found[0][2] and found[0][2].encode()


def test_an_answer_may_end_between_two_calls():
    assert read(["<|tool_call_start|>[g(),"], markups.LFM) == [("call", "g", "{}")]


def test_lists_in_lists_have_a_bound():
    deep = 200
    text = markups.lfm(f"f(tags={'[' * deep}{']' * deep})")
    assert read([text], markups.LFM, whole=True) == [("text", text)]


def test_arguments_that_are_no_json_are_text_unless_they_have_begun():
    text = '<tool_call>\n{"name": "f", "arguments": {"city" "x"}}\n</tool_call>'
    assert read(list(text), JSON, whole=True) == [("text", text)]
    assert read(list(text), JSON) == [("call", "f", '{"city" "x"}')]


def test_a_call_that_was_left_open_ends_at_its_tag():
    text = '<tool_call>\n{"name": "f", "arguments": {"city": "x"\n</tool_call> more'
    assert read([text], JSON)[-1] == ("text", "more")


def test_arguments_come_as_they_are_written():
    parser = Parser(0, JSON, TOOLS, opened=False, whole=False, parallel=True, new_id=lambda: "id")
    head = '<tool_call>\n{"name": "f", "arguments": {"city": "Pa'
    assert parser.push(head)[-1] == CallArguments(0, 0, '{"city": "Pa')
    assert parser.push("ris") == [CallArguments(0, 0, "ris")]


def test_a_text_parameter_comes_as_it_is_written():
    parser = Parser(0, XML, TOOLS, opened=False, whole=False, parallel=True, new_id=lambda: "id")
    parser.push("<tool_call>\n<function=f>\n<parameter=city>\n" + "x" * 40)
    assert parser.push("y" * 20) != []


def test_a_prompt_can_end_within_reasoning():
    assert read(["Hm.\n</think>\n\nYes."], JSON, opened=True) == [
        ("reasoning", "Hm."),
        ("text", "Yes."),
    ]


def test_without_tools_calls_are_text():
    assert read([ONE], JSON, tools={}) == [("text", ONE)]


def test_one_call_only_where_more_are_not_welcome():
    assert read([ONE + TWO], JSON, parallel=False) == [CALL_ONE]
    assert read([ONE + TWO], JSON, parallel=False, whole=True) == [CALL_ONE]


@pytest.mark.parametrize(
    "markup",
    [JSON, XML, *markups.ALL],
)
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_to_its_end(markup, data):
    words = st.sampled_from([
        "<tool_call>", "</tool_call>", "<think>", "</think>", "<function=f>", "</function>",
        "<parameter=city>", "</parameter>", '{"name": "f", "arguments": ', "{", "}", '"', "\\",
        "\n", " ", "a", "<", ">", *sorted(markup.tags), 'name="f">', "f", "functions.f:0", "[",
        "call:f{", "f(", "city", ":", "=", ",", "]", ")", "'", "1", "f[ARGS]",
    ])  # fmt: skip
    pieces = data.draw(st.lists(words, max_size=24))
    whole = data.draw(st.booleans())
    found = read(pieces, markup, whole=whole)
    if whole:
        assert all(isinstance(json.loads(item[2]), dict) for item in found if item[0] == "call")


def test_markup_is_found_in_templates():
    assert find_markup("{{ content }}") == Markup()
    assert find_markup("<think> <tool_call>{") == JSON
    assert find_markup("<|channel|> functions").think == (
        "<|channel|>analysis<|message|>", "<|end|>",
    )  # fmt: skip
    assert find_markup("</think> <tool_call><function=") == XML
