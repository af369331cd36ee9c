"""Gated convolutions: shapes beside those of the goldens, and what a session keeps of them."""

import numpy as np
import pytest

import moeflux
from oracle import Reference, build
from oracle.families import FAMILIES
from support import pieces

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(9)).integers(0, 250, 90)]
ROOM = {"memory": "64MiB", "context": 128}


@pytest.mark.parametrize(
    "options", [{"conv_bias": True, "conv_L_cache": 4}, {"conv_L_cache": 2}], ids=str
)
def test_other_shapes_meet_float64(options, tmp_path):
    folder = build(tmp_path, "lfm2_moe", "hf-f32", branch_gain=0.5, **options)
    found = moeflux.load(folder, **ROOM).session().step(TOKENS, all_logits=True)
    difference = np.abs(found - Reference(folder).forward(TOKENS).logits)
    worst, mean = FAMILIES["lfm2_moe"].tolerance
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = build(tmp_path_factory.mktemp("conv") / "m", "lfm2_moe", "mlx-q4")
    return moeflux.load(folder, **ROOM)


def test_tokens_alone_forks_and_snapshots_have_the_bits_of_a_prompt(model):
    """Pieces are shorter and longer than the history of a convolution (2)."""
    pieces.assert_same_bits(model, TOKENS)


def test_a_session_with_a_convolution_is_not_truncated(model):
    session = model.session()
    session.step(TOKENS)
    with pytest.raises(moeflux.SessionError, match="found recurrent state"):
        session.truncate(5)
    assert session.position == len(TOKENS)
