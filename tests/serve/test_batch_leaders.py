"""Who waits for whom before an engine: no job is lost or left waiting, whatever others come to."""

import asyncio

import pytest

from moeflux.serve.batch import leaders as module
from moeflux.serve.batch.leaders import Leaders
from moeflux.serve.engine import EngineError, Job
from serve.scripted import FAULT, ScriptedEngine

SHARED = list(range(97, 97 + 26)) * 4


def job(*own, **more):
    return Job(ids=[*SHARED, *own], **more)


async def finish(engine, wanted):
    return [delta async for delta in engine.submit(wanted)][-1].finish


def running(work):
    """Runs `work` before an engine that holds its answers, with the event that lets them go on."""

    async def go():
        hold = asyncio.Event()
        engine = ScriptedEngine({"": "Hello.", "Z": FAULT}, hold=hold)
        held = Leaders(engine, 8)
        tasks = []
        try:
            return await asyncio.wait_for(work(held, engine, hold, tasks), 20)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert held._running == 0 and not held._held and not held._reading

    return asyncio.run(go())


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


def begun(held, tasks, *jobs):
    """Jobs on their way, all of them known before the first goes."""
    for one in jobs:
        held.expect(one.id)
    tasks += [asyncio.ensure_future(finish(held, one)) for one in jobs]
    return tasks[-len(jobs) :]


def test_the_first_goes_alone_with_a_mark_and_the_others_when_it_has_a_token():
    async def work(held, engine, hold, tasks):
        engine.pause = 0.05
        begun(held, tasks, *(job(i, id=f"{i}") for i in (5, 1, 3)))
        await settled()
        assert [one.id for one in engine.jobs] == ["1"]  # by tokens, not by arrival
        assert list(engine.jobs[0].marks) == [len(SHARED)]
        while len(engine.jobs) < 3:
            await asyncio.sleep(0.01)
        hold.set()
        assert await asyncio.gather(*tasks) == ["eos"] * 3

    running(work)


def test_prompts_that_share_little_do_not_wait():
    async def work(held, engine, hold, tasks):
        alike = SHARED[: module.LEAST - 1]
        engine.pause = 0.05
        begun(held, tasks, *(Job(ids=[*alike, i, *SHARED], id=f"{i}") for i in (1, 2)))
        await settled()
        assert len(engine.jobs) == 2
        hold.set()
        await asyncio.gather(*tasks)

    running(work)


def test_a_leader_that_fails_or_is_given_up_lets_the_others_go():
    async def work(held, engine, hold, tasks):
        engine.pause = 0.05
        fails, leads, last = begun(held, tasks, job(1, ord("Z"), id="fails"), job(2, id="leads"),
                                   job(3, id="last"))  # fmt: skip
        with pytest.raises(EngineError):
            await fails
        await settled()
        assert [one.id for one in engine.jobs] == ["fails", "leads"]
        leads.cancel()
        hold.set()
        assert await last == "eos"

    running(work)


def test_one_that_is_given_up_before_its_turn_is_forgotten():
    async def work(held, engine, hold, tasks):
        engine.pause = 0.05
        leads, waits = begun(held, tasks, job(1, id="leads"), job(2, id="waits"))
        await settled()
        waits.cancel()
        hold.set()
        assert await leads == "eos"
        assert [one.id for one in engine.jobs] == ["leads"]

    running(work)


def test_one_that_is_expected_and_does_not_come_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.01)

    async def work(held, engine, hold, tasks):
        held.expect("ghost")
        hold.set()
        assert await finish(held, job(1)) == "eos"

    running(work)


def test_prompts_that_are_scored_wait_for_nobody_and_lead_nobody():
    async def work(held, engine, hold, tasks):
        engine.pause = 0.05
        begun(held, tasks, *(job(i, id=f"{i}", echo=0) for i in (1, 2)), job(3, id="3"))
        await settled()
        assert len(engine.jobs) == 3 and all(list(one.marks) == [] for one in engine.jobs)
        hold.set()
        await asyncio.gather(*tasks)

    running(work)


def test_the_engine_has_no_more_jobs_than_it_may():
    async def work(held, engine, hold, tasks):
        held._most = 2
        begun(held, tasks, *(Job(ids=[i] * 50, id=f"{i}") for i in range(1, 6)))
        await settled()
        assert len(engine.jobs) == 2
        hold.set()
        assert await asyncio.gather(*tasks) == ["eos"] * 5

    running(work)
