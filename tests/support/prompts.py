"""Prompts, the engine that answers them, and where it keeps them on disk."""

import asyncio
from contextlib import aclosing

import moeflux
from moeflux.serve.engine import Job, Sampling
from moeflux.serve.local import EngineSettings, LocalEngine

CONTEXT = 1024


LENGTH = 300  # of a prompt: an extent and a part of another


MUCH = 1 << 30


LOAD = {"memory": "128MiB", "context": CONTEXT, "threads": 2}


def tokens(n=LENGTH, seed=0):
    return [(7 * i + i * i // 11 + 31 * seed) % 250 for i in range(n)]


def kept(model, ids):
    session = model.session()
    session.step(ids)
    return session.save()


def files(folder):
    return sorted(folder.glob("*.mfs"))


def serving(model_folder, cache_dir, work, *, load=None, **settings):
    """Runs `work` with a new engine, which then drains; the metrics come with its result."""

    async def run():
        engine = LocalEngine(moeflux.load(model_folder, **LOAD | (load or {})), "tiny",
                             EngineSettings(cache_dir=cache_dir, **settings))  # fmt: skip
        try:
            found = await asyncio.wait_for(work(engine), 120)
        finally:
            await engine.drain(0)
        return found, engine.metrics.text().decode()

    return asyncio.run(run())


async def answer(engine, ids, **more):
    """Tokens with their logprobs, and the usage. The end of the prompt is worth a checkpoint."""
    sampling = Sampling(temperature=0, max_tokens=5, top_logprobs=3)
    asked = Job(ids, sampling, **{"marks": (len(ids),)} | more)
    said, usage = [], None
    async with aclosing(engine.submit(asked)) as deltas:
        async for delta in deltas:
            said += delta.logprobs
            usage = delta.usage or usage
            assert delta.error is None
    return said, usage


def asks(*prompts, **more):
    async def work(engine):
        return [await answer(engine, ids, **more) for ids in prompts]

    return work
