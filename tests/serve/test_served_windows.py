"""Sliding windows under the scheduler: sessions that are taken, and prompts that part within what a
window has given back, say what each says alone.
"""

import asyncio

import numpy as np
import pytest

import moeflux
from moeflux.serve.loop import StepLoop
from moeflux.serve.memory import Room
from oracle import build
from serve.test_engine import answer, expected, serving

WINDOW, CONTEXT = 40, 1024
SHAPES = {
    "gpt_oss": {"form": "mlx-q4", "sliding_window": WINDOW, "num_hidden_layers": 4},
    "gemma4": {"form": "mlx-q4", "sliding_window": WINDOW},
}
WORDS = np.random.Generator(np.random.PCG64(8)).integers(3, 250, CONTEXT).tolist()


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("served") / "m", family=request.param,
                 **SHAPES[request.param])  # fmt: skip


@pytest.mark.parametrize("cache", ["0", "25%"])
def test_windowed_sessions_that_outgrow_the_memory_pause(folder, cache, monkeypatch):
    """Prompts of one, two and three extents, each with an answer that begins the next one."""
    taken, preempt = [], StepLoop._preempt

    def noted(self, sequence):
        taken.append((len(sequence.tokens), sequence.session.truncatable_to))
        preempt(self, sequence)

    monkeypatch.setattr(StepLoop, "_preempt", noted)
    monkeypatch.setattr("moeflux.serve.loop.AHEAD", 10)
    model = moeflux.load(folder, memory="256MiB", context=CONTEXT)
    room = Room(model, CONTEXT)
    prompts = [WORDS[i : i + n] for i, n in ((0, 240), (100, 496), (30, 752))]
    sessions = sum(room.bytes(n) for n in (256, 512, 768))
    memory = model.stats["live_bytes"] + sessions + room.kept_bytes + 20_000

    async def work(engine):
        asked = (answer(engine, ids, seed=i, max_tokens=60) for i, ids in enumerate(prompts))
        return [one for one, _ in await asyncio.gather(*asked)], engine.metrics.text().decode()

    options = {"max_slots": None, "cache_memory": cache, "prefill_share": 0.95}
    found, metrics = serving(work, folder=folder, memory=memory, context=CONTEXT, **options)
    assert found == [expected(model, ids, seed=i, max_tokens=60) for i, ids in enumerate(prompts)]
    assert taken and f"moeflux_preemptions_total {len(taken)}.0" in metrics
    assert any(least > 0 for _, least in taken)  # none could have gone back to its begin


@pytest.mark.parametrize("common", [20, 300, 560])
def test_prompts_that_part_where_a_window_has_gone_on(folder, common):
    """No snapshot can be cut to what they share: it is computed, and kept for the third."""
    model = moeflux.load(folder, memory="256MiB", context=CONTEXT)
    turns = [[*WORDS[:common], *WORDS[at : at + 90]] for at in (600, 700, 800)]
    turns[0] = WORDS[:700]

    async def work(engine):
        return [await answer(engine, ids, temperature=0.0, max_tokens=12) for ids in turns]

    found = serving(work, folder=folder, memory="256MiB", context=CONTEXT, max_slots=None)
    assert [one for one, _ in found] == [
        expected(model, ids, temperature=0.0, max_tokens=12) for ids in turns
    ]
    cached = [last.usage.cached_memory for _, last in found]
    assert cached == [0, 0, common]
