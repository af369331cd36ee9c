"""What Claude Code, Codex and OpenCode sent, sent again: requests recorded by tests/agents."""

import functools
import json
from pathlib import Path

import pytest

from agents.recording import LONG, form
from serve.asking import ask, events
from serve.scripted import ScriptedEngine, tokenizer

FOLDER = Path(__file__).parent / "recorded"
SHELLS = {"claude": "Bash", "codex": "exec_command", "opencode": "bash"}
ENDS = {"claude": "message_stop", "codex": "response.completed", "opencode": "[DONE]"}


def recorded(agent):
    return json.loads((FOLDER / f"{agent}.json").read_text())


@functools.cache
def answered(agent):
    """An engine that calls the agent's shell, after all requests, and the answers."""
    call = json.dumps({"name": SHELLS[agent], "arguments": {"command": "ls"}})
    engine = ScriptedEngine({"": f"Sure.\n<tool_call>\n{call}\n</tool_call>"}, context=1 << 20)
    found = [
        ask(engine, one["path"], one["body"], headers=one["headers"]) for one in recorded(agent)
    ]
    return engine, found


def prompts(engine):
    return [tokenizer().decode(list(job.ids), skip_special_tokens=False) for job in engine.jobs]


@pytest.mark.parametrize("agent", SHELLS)
def test_each_request_of_an_agent_is_answered_by_a_call_of_its_shell(agent):
    engine, found = answered(agent)
    assert len(found) >= 2
    for one, answer in zip(recorded(agent), found, strict=True):
        assert answer.status_code == 200, answer.text
        told = events(answer.text)
        assert ENDS[agent] in (told[-1][0], told[-1][1])
        if one["body"].get("tools"):
            assert f'"name": "{SHELLS[agent]}"' in json.dumps([data for _, data in told])
    for one, job in zip(recorded(agent), engine.jobs, strict=True):
        most = one["body"].get("max_tokens")
        assert job.sampling.max_tokens == most or most is None


@pytest.mark.parametrize("agent", SHELLS)
def test_the_model_is_given_the_tools_and_each_prompt_begins_with_the_last(agent):
    engine, _ = answered(agent)
    first, second = prompts(engine)[-2:]
    assert "Run the tool" in first and f'"name": "{SHELLS[agent]}"' in first
    assert second.startswith(first) and "<tool_response>" in second
    assert all(job.marks for job in engine.jobs[-2:])


@pytest.mark.parametrize("agent", SHELLS)
def test_what_is_recorded_is_short_and_nobodys(agent):
    """So a later recording that forgot to cut fails."""
    found = recorded(agent)
    assert form(found) == found and LONG == 60
    assert (FOLDER / f"{agent}.json").stat().st_size <= 30_720
