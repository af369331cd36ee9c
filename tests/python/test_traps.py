"""Traps of long contexts (docs/traps.md)."""

import numpy as np
import pytest

import moeflux
from oracle import Reference, build

TINY = {"num_hidden_layers": 1, "num_experts": 4, "num_experts_per_tok": 2}


LENGTHS = [4095, 4096, 4097]


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    """A model, tokens, and what the reference says after each: no token sees those behind it."""
    folder = build(tmp_path_factory.mktemp("long") / "m", family="qwen3_moe", form="hf-f32",
                   max_position_embeddings=8192, **TINY)  # fmt: skip
    numbers = np.random.Generator(np.random.PCG64(4096)).integers(0, 250, max(LENGTHS))
    tokens = [int(t) for t in numbers]
    return folder, tokens, Reference(folder).forward(tokens).logits


@pytest.mark.full
@pytest.mark.parametrize("length", LENGTHS)
def test_positions_past_4096_equal_the_reference(long_text, length):
    folder, tokens, expected = long_text
    session = moeflux.load(folder, memory="256MiB", context=4200).session()
    session.step(tokens[: length - 1])
    logits = session.step(tokens[length - 1 : length])
    assert np.abs(logits - expected[length - 1]).max() <= 2e-4


def test_rotation_at_large_positions_equals_numpy(tmp_path):
    """One head at position 1 (query) over position 0 and 1 says nothing about large angles, so the
    frequencies are raised instead: theta < 1 turns the pairs by up to a million radians a step.
    """
    folder = build(tmp_path / "m", family="qwen3_moe", form="hf-f32", rope_theta=1e-6, **TINY)
    tokens = [5, 9, 200, 17]
    out = moeflux.load(folder, memory="256MiB", context=64).session().step(tokens, all_logits=True)
    expected = Reference(folder).forward(tokens).logits
    # f32 angles of 1e6 are exact to 0.03 rad only, in transformers as here; a wrong reduction
    # (fast-math sin) would be off by whole turns.
    assert np.isfinite(out).all()
    assert np.abs(out[0] - expected[0]).max() <= 2e-4
    assert np.corrcoef(out.ravel(), expected.ravel())[0, 1] > 0.99
