"""Talks that demo-chat is taught by: calls fit their tools, and say what the user said."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "tools/train_chat"
PROGRAM = """
import json, sys
from itertools import islice
from generate import talks
for talk in islice(talks(int(sys.argv[1]), held=sys.argv[2] == "held"), 300):
    print(json.dumps([talk.tools, talk.turns]))
"""
CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>")
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool}


def talks(side, seed=11):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seed), side],
        cwd=FOLDER, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module", params=["taught", "held"])
def found(request):
    return talks(request.param)


def test_calls_fit_the_tools_that_were_offered(found):
    n_calls = 0
    for tools, turns in found:
        schemas = {tool["name"]: tool["parameters"] for tool in tools}
        assert len(schemas) == len(tools)
        for call in (json.loads(text) for turn in turns for text in CALL.findall(turn[1])):
            schema, given = schemas[call["name"]], call["arguments"]
            assert given.keys() <= schema["properties"].keys()
            assert given.keys() >= set(schema.get("required", ()))
            for name, value in given.items():
                wanted = schema["properties"][name]
                assert isinstance(value, TYPES[wanted["type"]])
                assert value in wanted.get("enum", [value])
            n_calls += 1
    assert n_calls > 300


def test_arguments_are_words_of_the_user(found):
    for _, turns in found:
        said = ""
        for role, text, _ in turns:
            said += f"{text}\n".lower() if role == "user" else ""
            for call in map(json.loads, CALL.findall(text)):
                for value in call["arguments"].values():
                    assert str(value).lower() in said


def test_results_follow_calls_and_every_talk_ends_with_an_answer(found):
    for _, turns in found:
        assert turns[-1][0] == "assistant" and turns[-1][2] in ("read", "chat")
        waiting = 0
        for role, text, kind in turns:
            assert (role == "tool") == (waiting > 0)
            waiting = len(CALL.findall(text)) if role == "assistant" else max(waiting - 1, 0)
            assert (kind in ("call", "unseen")) == (role == "assistant" and waiting > 0)


def test_a_seed_gives_the_same_talks_and_another_gives_others():
    assert talks("taught", 1) == talks("taught", 1) != talks("taught", 2)


def test_tools_of_held_out_talks_are_not_taught():
    held = {line.split()[0] for line in (FOLDER / "tools_held.txt").read_text().split("\n\n")}
    taught = {tool["name"] for tools, _ in talks("taught") for tool in tools}
    used = {tool["name"] for tools, _ in talks("held") for tool in tools}
    assert held & used and not held & taught
