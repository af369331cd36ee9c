"""Sliding windows and sinks over more positions than are scored together (256)."""

import numpy as np
import pytest

import moeflux
from oracle import Reference, build
from oracle.families import FAMILIES
from support.few import few

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(9)).integers(0, 250, 600)]


@pytest.mark.parametrize("window", few(2, [16, 300, 1, 256]))
def test_a_query_sees_its_window_in_a_prompt_and_alone(window, tmp_path):
    folder = build(tmp_path, "gpt_oss", "mlx-f32", seed=window, sliding_window=window,
                   num_hidden_layers=2, branch_gain=0.25)  # fmt: skip
    expected = Reference(folder).forward(TOKENS).logits
    model = moeflux.load(folder, memory="256MiB", context=640)
    whole = model.session().step(TOKENS, all_logits=True)
    worst, mean = FAMILIES["gpt_oss"].tolerance
    difference = np.abs(whole - expected)
    assert difference.max() <= worst and difference.mean() <= mean

    session, at = model.session(), 0
    for n in (250, *[1] * 12, 200, 17, *[1] * 40, 81):
        found = session.step(TOKENS[at : at + n], all_logits=True)
        assert np.array_equal(found, whole[at : at + n])
        at += n
    assert at == len(TOKENS)


def test_positions_before_the_window_change_nothing(tmp_path):
    folder = build(tmp_path, "gpt_oss", "mlx-q4", sliding_window=4, num_hidden_layers=1)
    session = moeflux.load(folder, memory="64MiB", context=640).session()
    one = session.step(TOKENS[:500], all_logits=True)
    session.reset()
    other = session.step([*reversed(TOKENS[:300]), *TOKENS[300:500]], all_logits=True)
    assert np.array_equal(one[303:], other[303:]) and not np.array_equal(one[302], other[302])
