"""How long a request may wait for its turn, and take in all."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from moeflux.errors import SessionError
from moeflux.serve.engine import Busy, Delta, Late
from moeflux.serve.local import EngineSettings
from moeflux.serve.settings import Settings
from moeflux.serve.ticket import Ticket
from serve.asking import ask, events
from serve.scripted import ScriptedEngine
from serve.test_engine import CONTEXT, answer, expected, serving

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CLAUDE, RESPONSES = "/v1/messages", "/v1/responses"
HI = [{"role": "user", "content": "hi"}]
BODIES = {
    CHAT: {"messages": HI},
    TEXT: {"prompt": "hi"},
    CLAUDE: {"messages": HI, "max_tokens": 5},
    RESPONSES: {"input": "hi"},
}
LONG = list(range(600, 620))


def held(engine):
    """A model that steps once the event is set."""
    step, goes_on = engine._model.step_batch, threading.Event()

    def stepping(batch, **options):
        goes_on.wait(50)
        return step(batch, **options)

    engine._model.step_batch = stepping
    return goes_on


async def until(engine, running, waiting):
    while (engine.health().running, engine.health().waiting) != (running, waiting):
        await asyncio.sleep(0.001)


def test_who_waits_too_long_is_refused_and_who_runs_is_not():
    async def work(engine):
        goes_on = held(engine)
        first = asyncio.ensure_future(answer(engine, LONG, max_tokens=20))
        await until(engine, 1, 0)
        engine._settings = replace(engine._settings, queue_timeout=0.05)
        with pytest.raises(Busy, match="no place") as refused:
            await answer(engine, LONG)
        goes_on.set()
        return refused.value.retry_after, (await first)[0][2]

    assert serving(work, max_running=1) == (10, "length")


def test_who_has_had_a_turn_is_not_refused():
    async def work(engine):
        goes_on = held(engine)
        asked = asyncio.ensure_future(answer(engine, LONG, max_tokens=4))
        await until(engine, 1, 0)
        (ticket,) = engine._open
        ticket.fail_waiting(Busy("[serve] no place", 1))
        goes_on.set()
        return (await asked)[0][2]

    assert serving(work) == "length"


def test_a_job_that_takes_too_long_ends_and_leaves_its_place():
    async def work(engine):
        goes_on = held(engine)
        with pytest.raises(Late):
            await answer(engine, LONG, seconds=0.3)
        goes_on.set()
        await until(engine, 0, 0)
        return (await answer(engine, LONG, max_tokens=2, seconds=1000.0))[0][2]

    assert serving(work) == "length"


def test_an_answer_that_is_on_its_way_is_not_thrown_away():
    async def work():
        sequence = SimpleNamespace(finish="length")
        ticket = Ticket(None, [sequence], None)
        ticket.fail(Late("[serve] too late"))  # before the event loop had the news
        ticket.tell([Delta(0, (), "end", finish="length")])
        return [delta.text async for delta in ticket.news()]

    assert asyncio.run(work()) == ["end"]


def test_a_job_that_has_ended_is_not_kept_by_its_timers():
    async def work(engine):
        await answer(engine, LONG, max_tokens=2, seconds=1000.0)
        return asyncio.get_running_loop()._scheduled  # cancelled ones may stay for a while

    assert all(timer.cancelled() for timer in serving(work, queue_timeout=1000))


def test_a_job_that_ends_in_time_says_the_same():
    import moeflux

    async def work(engine):
        return (await answer(engine, LONG, seed=3, seconds=1000.0))[0]

    alone = moeflux.load(memory="64MiB", context=CONTEXT)
    assert serving(work, queue_timeout=1000) == expected(alone, LONG, seed=3)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_the_time_of_a_request_reaches_the_engine(path, stream):
    engine = ScriptedEngine()
    ask(engine, path, BODIES[path] | {"stream": stream}, request_timeout=50.0)
    ask(engine, path, BODIES[path] | {"stream": stream})
    timed, free = engine.jobs
    assert 40 < timed.seconds <= 50 and free.seconds is None


def test_prompts_of_one_request_share_its_time():
    engine = ScriptedEngine(pause=0.01)
    body = {"prompt": ["a", "b", "c"], "stream": True}
    ask(engine, TEXT, body, request_timeout=50.0)
    first, second, third = [job.seconds for job in engine.jobs]
    assert first > second > third > 40


@pytest.mark.parametrize("path", BODIES)
def test_too_long_is_an_event_once_the_stream_has_begun(path):
    class Slow(ScriptedEngine):
        async def _choice(self, *given):
            async for delta in super()._choice(*given):
                yield delta
                raise Late("[serve] the request took longer than it may")

    name, data = events(ask(Slow(), path, BODIES[path] | {"stream": True}).text)[-1]
    if path == RESPONSES:
        assert name == "response.failed"
        assert "longer" in data["response"]["error"]["message"]
    elif path == CLAUDE:
        assert name == "error" and data["error"]["type"] == "timeout_error"
    else:
        assert data["error"]["type"] == "timeout_error"
        assert data["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), "5"])
def test_times_out_of_range_are_refused(seconds):
    with pytest.raises(SessionError, match="queue_timeout"):
        EngineSettings(queue_timeout=seconds)
    with pytest.raises(SessionError, match="request_timeout"):
        Settings(request_timeout=seconds)
