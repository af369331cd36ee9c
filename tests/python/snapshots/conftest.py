"""A prompt's logits and a small file, of two models that snapshots are taken of."""

import pytest

import moeflux
from oracle import build
from support.snapshots import FEW, SHAPE, TOKENS, N, small_file


@pytest.fixture(scope="module", params=["qwen3_moe", "qwen3_next"])
def folder(request, tmp_path_factory):
    """A model of attention alone, and one with gated delta nets."""
    path = tmp_path_factory.mktemp("saved") / request.param
    return build(path, family=request.param, form="mlx-q4", seed=7, **SHAPE)


@pytest.fixture(scope="module")
def model(folder):
    return moeflux.load(folder, context=N, **FEW)


@pytest.fixture(scope="module")
def whole(model):
    """Logits after every token of one prompt."""
    return model.session().step(TOKENS, all_logits=True)


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    return small_file(model, tmp_path_factory.mktemp("small") / "s")
