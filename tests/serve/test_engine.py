"""LocalEngine over the demo model and tiny checkpoints: texts are those of `stream_generate` alone,
whatever else runs, is cancelled, fails or is remembered.
"""

import asyncio
import json
import threading
import time
from collections import deque
from contextlib import aclosing
from types import SimpleNamespace

import numpy as np
import pytest

import moeflux
from moeflux import Choice, IoError, MemoryBudgetError
from moeflux.serve.engine import Busy, EngineError, Job, Sampling
from moeflux.serve.faults import SetBack
from moeflux.serve.local import EngineSettings, LocalEngine
from moeflux.serve.loop import TOGETHER, StepLoop
from moeflux.serve.memory import Room
from moeflux.serve.sequence import Chooser, Sequence
from moeflux.serve.ticket import Ticket
from oracle import build

PROMPT = "The following example shows how to use the"
TEXTS = ["import os", "def main(", PROMPT, "class Point:\n    def", "x = [", "The module"]
CONTEXT = 256


@pytest.fixture(scope="module")
def alone():
    return moeflux.load(memory="64MiB", context=CONTEXT)


def expected(model, prompt, **options):
    """Text, tokens and end as a generation of its own has them."""
    options = {"max_tokens": 24, "temperature": 0.8, **options}
    parts = list(moeflux.stream_generate(model, prompt, **options))
    tokens = [part.token for part in parts if part.token is not None]
    return "".join(part.text for part in parts), tokens, parts[-1].finish_reason


def serving(work, *, memory="24MiB", max_slots=64, folder=None, context=CONTEXT, **settings):
    """Runs `work` with a new engine, which then drains."""

    async def run():
        model = moeflux.load(folder, memory=memory, context=context, max_slots=max_slots)
        engine = LocalEngine(model, "demo", EngineSettings(**settings))
        try:
            return await asyncio.wait_for(work(engine), 60)
        finally:
            await engine.drain(0)
            stats = model.stats
            assert stats["peak_bytes"] <= stats["memory_bytes"]

    return asyncio.run(run())


def job(engine, prompt, **more):
    ids = engine.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    names = set(Sampling.__dataclass_fields__)
    sampling = {"temperature": 0.8, "max_tokens": 24}
    sampling |= {key: more.pop(key) for key in list(more) if key in names}
    return Job(ids, Sampling(**sampling), **more)


async def answers(engine, asked):
    """For each choice: text, tokens, end; and its last Delta."""
    found = [["", [], None] for _ in range(asked.n)]
    last = [None] * asked.n
    async with aclosing(engine.submit(asked)) as deltas:
        async for delta in deltas:
            one = found[delta.choice]
            one[0] += delta.text
            one[1] += delta.tokens
            one[2] = delta.finish
            last[delta.choice] = delta
    return [tuple(one) for one in found], last


async def answer(engine, prompt, **more):
    found, last = await answers(engine, job(engine, prompt, **more))
    return found[0], last[0]


def test_sixteen_at_once_say_what_each_says_alone(alone):
    async def work(engine):
        asked = [(TEXTS[i % 6], i, 0.8 * (i % 3 > 0)) for i in range(16)]
        found = await asyncio.gather(
            *(answer(engine, text, seed=s, temperature=t) for text, s, t in asked)
        )
        return asked, [one for one, _ in found], engine.stats()

    asked, found, stats = serving(work, memory="32MiB")
    assert found == [expected(alone, text, seed=s, temperature=t) for text, s, t in asked]
    assert stats["misses"] > 0 and stats["evictions"] > 0
    assert stats["steps"] < stats["tokens"] / 6  # they did run together
    assert stats["live_bytes"] <= stats["memory_bytes"]


def test_more_than_find_memory_wait_and_say_the_same(alone):
    async def work(engine):
        asked = [answer(engine, TEXTS[i % 6], seed=i, max_tokens=8) for i in range(12)]
        found = asyncio.gather(*asked)
        while not engine.health().running:
            await asyncio.sleep(0.001)
        waiting = engine.health().waiting
        return waiting, [one for one, _ in await found]

    waiting, found = serving(work, memory="14MiB", max_slots=None, cache_memory="2MiB")
    assert found == [expected(alone, TEXTS[i % 6], seed=i, max_tokens=8) for i in range(12)]
    assert 0 < waiting < 12


def test_choices_are_those_of_their_seeds(alone):
    def work(engine):
        return answers(engine, job(engine, PROMPT, n=4, seed=5))

    found, last = serving(work, cache_memory="8MiB")
    assert found == [expected(alone, PROMPT, seed=5 + i) for i in range(4)]
    assert len({text for text, _, _ in found}) > 1
    n_prompt = len(alone.tokenizer.encode(PROMPT))
    assert [one.usage.cached_memory for one in last] == [0] * 4 or n_prompt > 16


@pytest.mark.parametrize("length", [40, 17])
def test_choices_compute_their_prompt_once(length):
    async def work(engine):
        before = engine.stats()["tokens"]
        _, last = await answers(engine, job(engine, list(range(50, 50 + length)), n=3))
        generated = sum(one.usage.generated for one in last)
        return engine.stats()["tokens"] - before - generated, last

    computed, last = serving(work)
    assert [one.usage.cached_memory for one in last] == [0, length - 1, length - 1]
    assert (
        computed <= length
    )  # and one row for each further choice, whose last token is not stepped


def test_stop_strings_end_the_text_and_are_told(alone):
    text, _, _ = expected(alone, PROMPT, temperature=0)
    stop = text[20:23]

    async def work(engine):
        return await answer(engine, PROMPT, temperature=0.0, stop=("\0never", stop))

    (said, _, finish), last = serving(work)
    assert (said, finish, last.stop) == (text[: text.index(stop)], "stop", stop)
    assert said == expected(alone, PROMPT, temperature=0, stop=stop)[0]


def test_stop_ids_end_and_min_tokens_and_ignore_eos_forbid_that(alone):
    _, tokens, _ = expected(alone, PROMPT, temperature=0)
    end = frozenset(tokens[3:4])

    async def work(engine):
        options = {"temperature": 0.0, "stop_ids": end}
        return [await answer(engine, PROMPT, **options),
                await answer(engine, PROMPT, **options, min_tokens=6),
                await answer(engine, PROMPT, **options, ignore_eos=True)]  # fmt: skip

    (one, last), (other, _), (third, _) = serving(work)
    first = tokens.index(tokens[3])
    assert (one[1], one[2], last.stop) == (tokens[:first], "eos", tokens[3])
    assert last.usage.generated == first + 1
    assert other[1][:first] == tokens[:first] and not end & set(other[1][:6])
    assert len(other[1]) >= 6 and not end & set(third[1]) and third[2] == "length"


def test_penalties_are_those_of_openai(alone):
    """Against the formula on logits of a session."""
    ids = alone.tokenizer.encode(PROMPT)
    session, said, tokens = alone.session(), [], ids
    for _ in range(24):
        logits = session.step(tokens).astype("float64")
        for token in set(said):
            logits[token] -= 0.2 + 1.5 * said.count(token)
        tokens = [int(logits.argmax())]
        said += tokens

    async def work(engine):
        return await answer(engine, PROMPT, temperature=0.0, presence_penalty=0.2,
                            frequency_penalty=1.5)  # fmt: skip

    assert serving(work)[0][1] == said
    assert said != expected(alone, PROMPT, temperature=0)[1]


async def only_scores(engine, ids):
    async with aclosing(engine.submit(job(engine, ids, max_tokens=0, echo=1))) as deltas:
        found = [delta async for delta in deltas]
    assert found[-1].finish == "length" and found[-1].usage.generated == 0
    return next(delta.scores for delta in found if delta.scores)


def test_logprobs_and_scores_are_those_of_the_logits(alone):
    ids = alone.tokenizer.encode("import os\nimport sys\n" * 9)
    parts = list(moeflux.stream_generate(alone, ids, max_tokens=5, top_logprobs=3))
    reference = alone.session().score(ids)

    async def work(engine):
        told = []
        async for delta in engine.submit(job(engine, ids, temperature=0.0, max_tokens=5,
                                             top_logprobs=3, echo=2)):  # fmt: skip
            told.append(delta)
        return told, *[await only_scores(engine, part) for part in (ids, ids[:1])]

    told, alone_scores, single = serving(work)
    logprobs = [one for delta in told for one in delta.logprobs]
    assert [(one.token, one.logprob, one.top) for one in logprobs] == [
        (part.token, part.logprob, part.top) for part in parts if part.token is not None
    ]
    (scores,) = (delta.scores for delta in told if delta.scores)
    assert scores.tokens[0] is None and single.tokens == (None,)
    for i, one in enumerate(scores.tokens[1:], 1):
        assert one.token == ids[i] and abs(one.logprob - reference[i]) < 1e-5
        assert len(one.top) == 2 and one.top[0][1] >= one.top[1][1]
        assert alone_scores.tokens[i].top[0] == one.top[0]
        assert (one.logprob == one.top[0][1]) == (one.token == one.top[0][0])


def test_a_cancelled_job_leaves_within_a_pass(alone):
    async def work(engine):
        step, steps = engine._model.step_batch, []
        engine._model.step_batch = lambda *a, **k: steps.append(len(a[0])) or step(*a, **k)
        other = asyncio.ensure_future(answer(engine, "import os", seed=1, max_tokens=60))
        deltas = engine.submit(job(engine, PROMPT, max_tokens=200))
        seen = 0
        async for delta in deltas:
            seen += len(delta.tokens)
            if seen > 3:
                break
        assert engine.health().running == 2
        before = len(steps)
        await deltas.aclose()
        while engine.health().running == 2:
            await asyncio.sleep(0.001)
        taken = steps[before:].count(2)  # with both in them
        return taken, (await other)[0]

    taken, found = serving(work)
    assert taken <= 2 and found == expected(alone, "import os", seed=1, max_tokens=60)


def test_a_waiting_job_that_is_cancelled_never_runs():
    async def work(engine):
        running = asyncio.ensure_future(answer(engine, PROMPT, max_tokens=60))
        waiting = engine.submit(job(engine, PROMPT))
        first = asyncio.ensure_future(anext(waiting))
        while engine.health().waiting != 1 or engine.health().running != 1:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await running
        return engine.health(), engine.metrics.text().decode()

    health, metrics = serving(work, max_running=1)
    assert (health.running, health.waiting) == (0, 0)
    assert "moeflux_queue_seconds_count 1.0" in metrics


def test_the_only_step_in_progress_is_aborted_and_what_it_had_is_kept(alone):
    """A prompt in pieces of 64 rows: the client goes after the second checkpoint."""
    ids = list(range(100, 340))

    async def work(engine):
        aborts = engine._model._native.aborts
        deltas = engine.submit(job(engine, ids, marks=(64, 128), max_tokens=4))
        await anext(deltas)
        begin = engine.stats()["tokens"]
        while engine.stats()["tokens"] < begin + 128:
            await asyncio.sleep(0.001)
        await deltas.aclose()
        found, last = await answer(engine, ids, max_tokens=4, temperature=0.0)
        return engine._model._native.aborts - aborts, found, last

    aborts, found, last = serving(work)
    assert aborts <= 1 and last.usage.cached_memory >= 128
    assert found == expected(alone, ids, max_tokens=4, temperature=0)


def test_the_next_turn_finds_all_of_the_last_one(alone):
    async def work(engine):
        ids = engine.tokenizer.encode(PROMPT * 3)
        (_, tokens, _), last = await answer(engine, ids, temperature=0.0)
        turn = [*ids, *tokens, *engine.tokenizer.encode(" and then")]
        before = engine.stats()["tokens"]
        again = await answer(engine, turn, temperature=0.0)
        computed = engine.stats()["tokens"] - before
        return len(ids) + len(tokens), turn, last, again, computed

    total, turn, first, (found, last), computed = serving(work)
    assert computed == len(turn) - (total - 1) + len(found[1]) - 1
    assert first.usage.cached_memory == 0
    assert last.usage.cached_memory == total - 1
    assert found == expected(alone, turn, temperature=0)


@pytest.mark.parametrize("marks", [(60,), ()])
def test_shared_beginnings_are_kept_at_marks_and_where_prompts_part(alone, marks):
    shared = list(range(300, 360))

    async def work(engine):
        turns = [[*shared, *range(i, i + 30)] for i in (1000, 2000, 3000)]
        return turns, [await answer(engine, t, marks=marks, temperature=0.0) for t in turns]

    turns, found = serving(work)
    cached = [last.usage.cached_memory for _, last in found]
    assert cached == ([0, 60, 60] if marks else [0, 0, 60])
    assert [one for one, _ in found] == [expected(alone, t, temperature=0) for t in turns]


def test_scopes_share_nothing():
    async def work(engine):
        ids = list(range(300, 360))
        found = [await answer(engine, ids, scope=scope) for scope in ("a", "b", "a", "a")]
        return [last.usage.cached_memory for _, last in found]

    assert serving(work) == [0, 0, 0, 59]


def test_the_cache_stays_within_its_bound():
    async def work(engine):
        for i in range(12):
            await answer(engine, list(range(10 * i, 10 * i + 100)), max_tokens=2)
            assert engine.stats()["cached_bytes"] <= engine.stats()["cache_bytes"] == 1 << 20
        return engine.stats()["cached_bytes"]

    assert serving(work, cache_memory="1MiB") > 0
    assert serving(lambda engine: asyncio.sleep(0, engine.stats()["cache_bytes"]),
                   cache_memory="0") == 0  # fmt: skip


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_moe"])
def test_a_prefix_from_the_cache_gives_the_logits_of_a_cold_start(tmp_path, family):
    folder = build(tmp_path / family, family=family, form="mlx-q4", seed=7, num_experts=24,
                   num_experts_per_tok=3)  # fmt: skip
    prompt = [*range(40, 150)]

    async def work(engine):
        options = {"temperature": 0.0, "max_tokens": 6, "top_logprobs": 5}
        said = []
        for ids in (prompt[:80], prompt):
            deltas = engine.submit(job(engine, ids, marks=(33, 70), **options))
            said = [delta async for delta in deltas]
        return [one for delta in said for one in delta.logprobs], said[-1].usage.cached_memory

    cold, none = serving(work, folder=folder, max_slots=None, cache_memory="0")
    warm, cached = serving(work, folder=folder, max_slots=None)
    assert (none, cached) in ((0, 70), (0, 80)) and warm == cold and len(warm) == 6


def test_a_run_goes_on_elsewhere_after_any_token(alone):
    text, tokens, finish = expected(alone, PROMPT, seed=9)

    async def work(engine):
        return [await answer(engine, PROMPT, seed=9, done=tokens[:cut]) for cut in (1, 7, 23)]

    for cut, (found, last) in zip((1, 7, 23), serving(work), strict=True):
        assert found[1] == tokens[cut:] and found[2] == finish and text.endswith(found[0])
        assert last.usage.generated == 24


def failing(engine, victim, times=1 << 30, error=None):
    """Steps of batches that hold the session whose prompt begins with `victim` fail."""
    step, bad, left = engine._model.step_batch, set(), [times]

    def broken(batch, **options):
        bad.update(session for session, ids in batch if ids[:1] == [victim] != ids)
        if left[0] and not bad.isdisjoint(session for session, _ in batch):
            left[0] -= 1
            raise error or IoError("an expert is unreadable")
        return step(batch, **options)

    engine._model.step_batch = broken


def test_a_read_error_of_one_in_eight_hurts_that_one_alone(alone):
    prompts = [list(range(i, i + 20)) for i in range(200, 1000, 100)]

    async def work(engine):
        failing(engine, 600)
        asked = [answers(engine, job(engine, ids, seed=1)) for ids in prompts]
        return await asyncio.gather(*asked), engine.health()

    found, health = serving(work, memory="32MiB")
    for ids, ((one,), (last,)) in zip(prompts, found, strict=True):
        if ids[0] == 600:
            assert one == ("", [], "error") and "unreadable" in last.error
        else:
            assert one == expected(alone, ids, seed=1)
    assert health.state == "ok"


def test_an_error_that_does_not_come_again_hurts_nobody(alone):
    async def work(engine):
        failing(engine, 600, times=1)
        return await answer(engine, list(range(600, 620)), seed=1)

    assert serving(work)[0] == expected(alone, list(range(600, 620)), seed=1)


def test_three_read_errors_in_a_minute_are_told():
    async def work(engine):
        failing(engine, 600)
        states = []
        for _ in range(3):
            states.append(engine.health().state)
            await answer(engine, list(range(600, 620)))
        return [*states, engine.health().state]

    assert serving(work) == ["ok", "ok", "ok", "degraded"]


def test_without_memory_the_youngest_pauses_and_says_the_same(alone):
    async def work(engine):
        step, failed = engine._model.step_batch, []

        def full(batch, **options):
            if len(batch) == 3 and len(failed) < 4:
                failed.append(len(batch))
                raise MemoryBudgetError("no room to grow")
            return step(batch, **options)

        engine._model.step_batch = full
        asked = (answer(engine, text, seed=2) for text in TEXTS[:3])
        found = await asyncio.gather(*asked)
        return [one for one, _ in found], failed, engine.metrics.text().decode()

    found, failed, metrics = serving(work, cache_memory="0")
    assert found == [expected(alone, text, seed=2) for text in TEXTS[:3]]
    assert failed == [3] * 4 and "moeflux_preemptions_total 4.0" in metrics


def test_who_never_finds_memory_beside_others_loses_its_session_ever_more_seldom(alone):
    """A step takes more than a plan sees, as long as three run; each try costs snapshots."""

    async def work(engine):
        step, failed = engine._model.step_batch, []

        def full(batch, **options):
            if len(batch) == 3:
                failed.append(len(batch))
                raise MemoryBudgetError("no room to grow")
            return step(batch, **options)

        engine._model.step_batch = full
        asked = (answer(engine, text, seed=2, max_tokens=60) for text in TEXTS[:3])
        found = await asyncio.gather(*asked)
        return [one for one, _ in found], failed

    found, failed = serving(work, cache_memory="0")
    assert found == [expected(alone, text, seed=2, max_tokens=60) for text in TEXTS[:3]]
    assert 3 <= len(failed) <= 7  # of 60 steps; without a pause each of them


def test_a_choice_that_was_set_back_waits_twice_as_long_until_it_gets_on():
    back, waits = SetBack(), []

    def steps():
        """That it waits for."""
        count = 0
        while back.holds(7):
            back.step()
            count += 1
        return count

    for tokens in (5, 5, 5, 6, 6):
        back.put(7, tokens)
        waits.append(steps())
    assert waits == [2, 4, 8, 2, 4]
    back.put(7, 6)
    back.put(8, 1)
    back.end(8, made_room=False)
    assert back.holds(7)
    back.end(9, made_room=True)
    assert not back.holds(7)
    back.put(7, 6)
    assert steps() == 16
    for _ in range(40):
        back.put(7, 6)
    assert steps() == 256
    back.end(7, made_room=True)
    back.put(7, 6)
    assert steps() == 2


def test_a_lone_job_without_memory_is_told():
    async def work(engine):
        failing(engine, 600, error=MemoryBudgetError("no room to grow"))
        return await answer(engine, list(range(600, 620)))

    (_, _, finish), last = serving(work)
    assert finish == "error" and "no room" in last.error


@pytest.mark.parametrize("kind", [RuntimeError, type("PanicException", (BaseException,), {})])
def test_an_error_of_one_choice_ends_that_one_alone(alone, kind):
    class Broken:
        stopped = False

        def mask(self):
            raise kind("the insides")

    async def work(engine):
        grammar = SimpleNamespace(start=Broken)
        asked = answer(engine, PROMPT, seed=1), answer(engine, PROMPT, constraint=grammar)
        return await asyncio.gather(*asked), engine.health()

    ((one, _), ((_, _, finish), last)), health = serving(work)
    assert one == expected(alone, PROMPT, seed=1) and health.state == "ok"
    assert finish == "error" and "insides" not in last.error


def test_a_step_that_finds_no_memory_lets_shares_of_the_snapshots_go(alone):
    async def work(engine):
        evicted = []

        def evict(nbytes, now, on_drop=None):
            evicted.append(nbytes)
            return nbytes if nbytes and len(evicted) < 2000 else 0

        failing(engine, 600, times=1500, error=MemoryBudgetError("no room to grow"))
        engine._cache.evict, engine._cache.nbytes = evict, 800
        found, _ = await answer(engine, list(range(600, 620)), seed=1)
        engine._cache.nbytes = 0
        return found, set(evicted) & {1, 100}

    found, evicted = serving(work)
    assert found == expected(alone, list(range(600, 620)), seed=1) and evicted == {100}


def test_a_choice_preempted_by_the_other_half_is_not_stepped(alone):
    async def work(engine):
        step, calls = engine._model.step_batch, []

        def broken(batch, **options):
            calls.append(len(batch))
            if len(batch) == 4:
                raise IoError("an expert is unreadable")
            if calls.count(4) == 1 and calls.count(2) == 1 and len(batch) == 2:
                raise MemoryBudgetError("no room to grow")
            return step(batch, **options)

        engine._cache.evict = lambda *_: 0
        engine._model.step_batch = broken
        asked = [answer(engine, TEXTS[i], seed=i, max_tokens=8) for i in range(4)]
        return [one for one, _ in await asyncio.gather(*asked)], engine.health()

    found, health = serving(work)
    assert found == [expected(alone, TEXTS[i], seed=i, max_tokens=8) for i in range(4)]
    assert health.state == "ok"


def test_drain_finishes_what_runs_and_takes_nothing_new(alone):
    async def work(engine):
        asked = [asyncio.ensure_future(answer(engine, t, seed=3)) for t in TEXTS[:4]]
        while engine.health().running == 0:
            await asyncio.sleep(0.001)
        drained = asyncio.ensure_future(engine.drain(30))
        await asyncio.sleep(0.001)
        assert engine.health().state == "draining"
        with pytest.raises(Busy):
            await answer(engine, PROMPT)
        await drained
        assert not engine._loop._thread.is_alive()
        return [one for one, _ in await asyncio.gather(*asked)]

    assert serving(work, max_running=2) == [expected(alone, t, seed=3) for t in TEXTS[:4]]


def test_a_drain_without_time_ends_everything():
    async def work(engine):
        asked = [asyncio.ensure_future(answer(engine, t, max_tokens=200)) for t in TEXTS]
        while engine.health().running == 0:
            await asyncio.sleep(0.001)
        await engine.drain(0)
        return [one for one, _ in await asyncio.gather(*asked)]

    assert {finish for _, _, finish in serving(work, max_running=2)} == {"cancelled"}


def test_a_failure_of_the_thread_ends_all_streams_and_is_told():
    async def work(engine):
        failing(engine, 600, error=RuntimeError("a defect"))
        asked = [answer(engine, t) for t in (PROMPT, list(range(600, 620)))]
        found = await asyncio.gather(*asked)
        with pytest.raises(EngineError):
            await answer(engine, PROMPT)
        return [one[2] for one, _ in found], engine.health()

    ends, health = serving(work)
    assert ends == ["error", "error"]
    assert health.state == "failed" and "a defect" in health.detail


def test_a_full_queue_refuses():
    async def work(engine):
        asked = [asyncio.ensure_future(answer(engine, PROMPT, max_tokens=30)) for _ in range(2)]
        while (engine.health().running, engine.health().waiting) != (1, 1):
            await asyncio.sleep(0.001)
        with pytest.raises(Busy):
            await answer(engine, PROMPT)
        return [one[2] for one, _ in await asyncio.gather(*asked)]

    assert serving(work, max_running=1, max_queued=1) == ["length"] * 2


def test_prompts_that_come_together_share_the_first_pass(monkeypatch):
    """One that comes alone waits for others, for a moment that is made long here."""
    slept, sizes = [], []

    async def work(engine):
        def sleep(seconds):
            slept.append(seconds)
            while engine._loop.counts != (0, 4):
                time.sleep(0.001)

        clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
        monkeypatch.setattr("moeflux.serve.loop.time", clock)
        step = engine._model.step_batch

        def counting(batch, **options):
            sizes.append(len(batch))
            return step(batch, **options)

        monkeypatch.setattr(engine._model, "step_batch", counting)
        tasks = [asyncio.create_task(answer(engine, [i] * 70, max_tokens=2)) for i in range(5, 9)]
        await asyncio.gather(*tasks)
        clock.sleep = time.sleep

    serving(work, context=1024)
    assert slept == [TOGETHER] and sizes[0] == 4


def test_who_waits_is_counted_once_while_the_step_thread_takes_the_inbox():
    """Else a queue that is half full refuses."""

    class Inbox(deque):
        """Taken by another thread as soon as somebody looks at it."""

        def __iter__(self):
            found = list(super().__iter__())
            taking.start()
            taking.join(0.2)
            return iter(found)

    async def work(engine):
        engine._loop.stop()
        engine._loop._end_all, engine._loop._inbox = lambda: None, Inbox()
        for i in range(8):
            one = job(engine, "import os")
            choice = Sequence(one, 0, i, engine.tokenizer, CONTEXT)
            engine._loop._inbox.append(Ticket(one, [choice], None))
        taking.run = engine._loop._take_inbox
        assert engine._loop.counts == (0, 8)
        taking.join()
        assert len(engine._loop._waiting) == 8

    taking = threading.Thread()
    serving(work)


BAD_JOBS = {
    "no token": {"prompt": []},
    "past the context": {"prompt": [1] * (CONTEXT + 1)},
    "an id past the vocabulary": {"prompt": [1, 4096]},
    "a negative id": {"prompt": [-1]},
    "bias past the vocabulary": {"bias": {5000: 1.0}},
    "an end that is no id": {"stop_ids": (5, True)},
    "no choice": {"n": 0},
    "temperature": {"temperature": -1.0},
    "seed": {"seed": -1},
    "max_tokens": {"max_tokens": -1},
    "penalty": {"presence_penalty": float("nan")},
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_job_that_nobody_can_do_is_refused(case):
    async def work(engine):
        options = {"prompt": PROMPT, **BAD_JOBS[case]}
        with pytest.raises(moeflux.SessionError):
            await answer(engine, options.pop("prompt"), **options)
        return await answer(engine, [1] * CONTEXT, temperature=0.0)

    assert serving(work)[0][2] == "length"


def test_an_answer_ends_with_the_context(alone):
    async def work(engine):
        return await answer(engine, [1] * 250, max_tokens=None)

    (_, tokens, finish), _ = serving(work)
    assert (len(tokens), finish) == (7, "length")


def test_a_schema_makes_valid_json_of_the_demo_model():
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "kind": {"enum": ["module", "class"]},
            "lines": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        },
        "required": ["name", "kind", "lines"],
        "additionalProperties": False,
    }

    async def work(engine):
        grammar = await engine.compile("json_schema", json.dumps(schema))
        asked = job(engine, PROMPT, constraint=grammar, n=6, max_tokens=200, seed=11)
        return await answers(engine, asked)

    found, _ = serving(work, memory="48MiB")
    for text, _, finish in found:
        assert finish == "eos"
        said = json.loads(text)
        assert set(said) == set(schema["required"]) and said["kind"] in ("module", "class")
        assert len(said["name"]) <= 12 and all(isinstance(i, int) for i in said["lines"])


def test_news_leave_while_the_next_step_computes():
    """Not before it: whoever writes them to clients would keep the step from Python's lock."""

    async def work(engine):
        native, step, told = engine._model._native, engine._model.step_batch, []

        def stepping(batch, **options):
            left = native.ring_next(-1)  # not rung yet, and hung
            native.ring_next(left)
            found = step(batch, **options)
            told.append((left >= 0, native.ring_next(-1)))
            return found

        engine._model.step_batch = stepping
        found = await answer(engine, "import os", max_tokens=8)
        return found, told

    (found, _), told = serving(work)
    assert found[2] == "length"
    assert told == [(True, -1)] * 8  # of the admission, and of each token but the last


def test_an_answer_that_goes_on_passes_those_who_wait_and_is_never_refused(alone):
    """It was lost with another replica: its client has waited, and sees a pause."""
    whole = expected(alone, "import os", seed=4)
    ended, goes_on = [], threading.Event()

    async def named(engine, name, prompt, **more):
        said, _ = await answer(engine, prompt, **more)
        ended.append(name)
        return said

    async def work(engine):
        step = engine._model.step_batch
        engine._model.step_batch = lambda *a, **k: goes_on.wait(60) and step(*a, **k)
        asked = [asyncio.create_task(named(engine, "runs", PROMPT, max_tokens=4))]
        while not engine._loop._stepping:
            await asyncio.sleep(0.001)
        asked += [asyncio.create_task(named(engine, f"waits {i}", "x = [", max_tokens=2))
                  for i in range(2)]  # fmt: skip
        while engine.health().waiting < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(Busy):
            await answer(engine, "y = [")
        lost = [named(engine, "goes on", "import os", seed=4, done=whole[1][:9]),
                named(engine, "was admitted", "import os", seed=4, lost=True)]  # fmt: skip
        for count, one in enumerate(lost, 3):
            asked.append(asyncio.create_task(one))
            while engine.health().waiting < count:
                await asyncio.sleep(0.001)
        goes_on.set()
        return (await asyncio.gather(*asked))[-2:]

    cut, again = serving(work, max_running=1, max_queued=2)
    assert cut[1] == whole[1][9:] and again == whole
    assert ended == ["runs", "goes on", "was admitted", "waits 0", "waits 1"]


def test_metrics_tell_who_waits_while_a_step_goes_on():
    go_on = threading.Event()

    async def work(engine):
        step = engine._model.step_batch
        engine._loop._steps._model = SimpleNamespace(
            step_batch=lambda *a, **k: go_on.wait(60) and step(*a, **k),
            _native=engine._model._native,
        )
        one = asyncio.create_task(answer(engine, "import os"))
        while not engine._loop._stepping:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(answer(engine, "x = [")) for _ in range(3)]
        await asyncio.sleep(0.05)
        told = engine.metrics.text().decode()
        go_on.set()
        await asyncio.gather(one, *others)
        return told, engine.metrics.text().decode()

    told, later = serving(work)
    for name, count in {"running": 1, "waiting": 3}.items():
        assert f"moeflux_requests_{name} {count}.0" in told
        assert f"moeflux_requests_{name} 0.0" in later


def test_a_grammar_that_takes_long_is_given_up(monkeypatch):
    monkeypatch.setattr("moeflux.serve.local.COMPILE_SECONDS", 0.01)

    async def work(engine):
        engine._compiler.compile = lambda *_: time.sleep(0.2)
        for _ in range(2):
            with pytest.raises(moeflux.SessionError, match=r"compiled in 0\.01 seconds"):
                await engine.compile("regex", "a")
        with pytest.raises(Busy):  # both threads go on
            await engine.compile("regex", "a")

    serving(work)


def test_the_time_of_a_grammar_begins_with_its_work(monkeypatch):
    monkeypatch.setattr("moeflux.serve.local.COMPILE_SECONDS", 1.0)

    async def work(engine):
        engine._compiler.compile = lambda kind, source, strict: time.sleep(0.6) or source
        return await asyncio.gather(*(engine.compile("regex", str(i)) for i in range(4)))

    assert serving(work) == ["0", "1", "2", "3"]


def test_a_penalty_sees_each_token_once():
    sampling = Sampling(temperature=0.0, repetition_penalty=2.0)
    chooser = Chooser(sampling, 0, frozenset(), [5, 3] * 1000, None)
    for token in (3, 9, 9, 1):
        chooser.replay(token)
    logits = np.array([4.6, 9.3, 0, 9.5, 0, 9.4, 0, 0, 0, 9.9], np.float32)
    found = [chooser.sampler().choose(logits).token for _ in range(2)]
    assert found == [9, 9]  # 4.95; twice it would be less than 4.6


def test_a_choice_that_no_token_is_left_to_ends_alone(alone):
    nothing = dict.fromkeys(range(alone.vocab_size), float("-inf"))

    async def work(engine):
        bad = answer(engine, PROMPT, bias=nothing, max_tokens=5)
        good = [answer(engine, text, seed=1, max_tokens=12) for text in TEXTS[:3]]
        return await asyncio.gather(*good, bad)

    *good, (bad, last) = serving(work)
    assert [one for one, _ in good] == [
        expected(alone, text, seed=1, max_tokens=12) for text in TEXTS[:3]
    ]
    assert bad[2] == "error" and "is left" in last.error


@pytest.mark.parametrize(
    "bad", [{"max_running": 0}, {"cache_memory": "120%"}, {"cache_memory": "much"},
            {"prefill_share": 1}, {"min_rate": 0}, {"max_queued": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(moeflux.SessionError):
        EngineSettings(**bad)


def test_neither_the_package_nor_its_help_needs_the_extra():
    import subprocess
    import sys

    script = (
        "import sys\n"
        "for name in ('fastapi', 'uvicorn', 'llguidance', 'prometheus_client'):\n"
        "    sys.modules[name] = None\n"
        "import moeflux, moeflux.cli\n"
        "sys.argv = ['moeflux', '--help']\n"
        "moeflux.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_session_that_outgrows_the_memory_pauses(monkeypatch):
    """Room for three choices as far as admission looks, and not for what they go on to say."""
    left, preempt = [], StepLoop._preempt

    def noted(self, sequence):
        preempt(self, sequence)
        left.append(sequence.session)

    monkeypatch.setattr(StepLoop, "_preempt", noted)
    monkeypatch.setattr("moeflux.serve.loop.AHEAD", 15)
    model = moeflux.load(memory="64MiB", context=512)
    room = Room(model, 512)
    memory = model.stats["live_bytes"] + 3 * room.bytes(256) + room.kept_bytes + 100_000
    prompts = [list(range(i, i + 240)) for i in (7, 300, 600)]

    async def work(engine):
        asked = (answer(engine, ids, seed=1, max_tokens=80) for ids in prompts)
        found = [one for one, _ in await asyncio.gather(*asked)]
        return found, engine.metrics.text().decode()

    options = {"max_slots": None, "cache_memory": "0", "prefill_share": 0.95}
    found, metrics = serving(work, memory=memory, context=512, **options)
    assert found == [expected(model, ids, seed=1, max_tokens=80) for ids in prompts]
    assert f"moeflux_preemptions_total {len(left)}.0" in metrics
    assert left and left == [None] * len(left)  # whose memory is free


def test_a_token_counts_though_who_outgrows_the_memory_took_its_session(alone):
    """Its sampler has moved on. Those who echo step behind it and may take the session."""
    asked = Job([1, 2, 3], Sampling(max_tokens=5))
    sequence = Sequence(asked, 0, 0, alone.tokenizer, CONTEXT)
    delta = sequence.push(Choice(40), 0.0)
    assert delta.tokens == (40,) and sequence.tokens == [1, 2, 3, 40]


def test_snapshots_of_one_talk_share_its_memory():
    async def work(engine):
        ids = list(range(100, 900))
        await answer(engine, ids, marks=(600, 700, 760), max_tokens=2)
        room, stats = engine._loop._room, engine.stats()
        return len(engine._cache), stats["cached_bytes"], room.bytes(801) - room.bytes(0)

    kept, cached, one = serving(work, memory="48MiB", context=1024, cache_memory="20MiB")
    assert kept == 4 and cached < 2 * one
