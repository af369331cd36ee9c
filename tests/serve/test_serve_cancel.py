"""Clients that go, stop reading or wait: jobs are cancelled, streams show that they live."""

import asyncio

import pytest

from moeflux.serve.engine import Delta
from serve.asking import CALL, USER, WEATHER, Asgi, app_of, events
from serve.scripted import ScriptedEngine

TOOL = {"type": "function", "function": WEATHER}
PATHS = {
    "/v1/chat/completions": {"messages": [USER], "tools": [TOOL]},
    "/v1/completions": {"prompt": "hi", "max_tokens": 40},
    "/v1/messages": {
        "messages": [USER],
        "max_tokens": 99,
        "tools": [{"name": "get_weather", "input_schema": WEATHER["parameters"]}],
    },
    "/v1/responses": {"input": "hi", "tools": [{"type": "function", **WEATHER}]},
}
ANSWER = f"<think>Hm.</think>Yes.{CALL}"


def run(work):
    return asyncio.run(asyncio.wait_for(work, 20))


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_goes_at_any_event_cancels_the_job(path):
    async def go(at):
        engine = ScriptedEngine({"": ANSWER})
        request = Asgi(app_of(engine), path, PATHS[path] | {"stream": True})
        request.on_send = lambda count: request.gone.set() if count == at else None
        await request.run()
        assert engine.running == 0
        return engine, request

    engine, request = run(go(0))
    assert engine.cancelled == []
    half = len(request.sent) // 2  # near the end the job has already done its work
    for at in range(1, len(request.sent) - 1):
        engine, cut = run(go(at))
        assert at <= len(cut.sent) <= at + 2
        assert engine.cancelled or at > half, (at, cut.sent[-1])
        assert len(engine.cancelled + engine.finished) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_goes_before_an_answer_cancels_the_job(path, stream):
    async def go():
        engine = ScriptedEngine({"": ANSWER}, hold=asyncio.Event())
        if stream:
            engine = Waiting()
        request = Asgi(app_of(engine), path, PATHS[path] | {"stream": stream})
        task = asyncio.ensure_future(request.run())
        while not engine.running:
            await asyncio.sleep(0.005)
        request.gone.set()
        await task
        assert engine.running == 0 and len(engine.cancelled) == 1

    run(go())


class Waiting(ScriptedEngine):
    """A queue that nothing leaves, until `admitted` is set."""

    def __init__(self, script=None):
        super().__init__(script)
        self.admitted = asyncio.Event()

    async def submit(self, job):
        self.running += 1
        try:
            await self.admitted.wait()
            async for delta in super().submit(job):
                yield delta
        finally:
            self.running -= 1
            if not self.admitted.is_set():
                self.cancelled.append(job)


PINGS = {
    "/v1/chat/completions": (None, None),
    "/v1/completions": (None, None),
    "/v1/messages": ("ping", {"type": "ping"}),
    "/v1/responses": "response.in_progress",
}


@pytest.mark.parametrize("path", PATHS)
def test_silence_is_broken_in_the_dialects_own_way(path):
    async def go():
        engine = Waiting()
        app = app_of(engine, keep_alive=0.05)
        request = Asgi(app, path, PATHS[path] | {"stream": True})
        request.on_send = lambda count: engine.admitted.set() if count == 4 else None
        await request.run()
        return events(b"".join(request.sent).decode())

    found = run(go())
    if path == "/v1/responses":
        assert [name for name, _ in found[:4]] == ["response.created", *[PINGS[path]] * 3]
        assert [data["sequence_number"] for _, data in found] == list(range(len(found)))
    else:
        assert found[:4] == [PINGS[path]] * 4
    assert len(found) > 6


def test_an_error_from_the_queue_after_a_ping_is_an_event():
    class Full(Waiting):
        async def submit(self, job):
            await asyncio.sleep(0.15)
            raise RuntimeError("x")
            yield Delta()

    async def go():
        request = Asgi(app_of(Full(), keep_alive=0.05), "/v1/chat/completions",
                       {"messages": [USER], "stream": True})  # fmt: skip
        await request.run()
        assert request.status == 200
        return events(b"".join(request.sent).decode())

    name, data = run(go())[-1]
    assert name is None and data["error"]["type"] == "server_error"


def test_a_client_that_reads_nothing_is_given_up():
    async def go():
        engine = ScriptedEngine({"": "x" * 50})
        app = app_of(engine, write_timeout=0.05)
        request = Asgi(app, "/v1/chat/completions", {"messages": [USER], "stream": True})
        request.on_send = lambda count: asyncio.Event().wait() if count == 3 else None
        await request.run()
        assert engine.running == 0 and len(engine.cancelled) == 1

    run(go())


def test_a_server_that_ends_drains_its_engines():
    async def go():
        engine = ScriptedEngine()
        app = app_of(engine)
        async with app.router.lifespan_context(app):
            assert not engine.drained
        assert engine.drained

    run(go())
