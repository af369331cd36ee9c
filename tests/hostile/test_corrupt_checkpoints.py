"""A spoiled checkpoint gives a typed error naming file, expected and found; others run on."""

import numpy as np
import pytest

import moeflux
from oracle import build, corrupt

ROOM = {"memory": "64MiB", "context": 64}


@pytest.fixture(scope="module")
def bystander(tmp_path_factory):
    """A healthy model opened before the hostile ones, and what it computes."""
    model = moeflux.load(build(tmp_path_factory.mktemp("good"), "qwen3_moe", "mlx-q4"), **ROOM)
    return model, model.session().step([1, 2, 3])


@pytest.mark.parametrize("name", corrupt.CORRUPTIONS)
def test_corrupt_checkpoint_is_refused_with_a_typed_error(name, tmp_path, bystander):
    hurt = corrupt.CORRUPTIONS[name]
    folder = build(tmp_path, **hurt.build)
    hurt.apply(folder)
    with pytest.raises(getattr(moeflux, hurt.error)) as caught:
        moeflux.load(folder, **ROOM)
    assert isinstance(caught.value, moeflux.MoefluxError)
    for text in hurt.mentions:
        assert text in str(caught.value)
    model, logits = bystander
    assert np.array_equal(model.session().step([1, 2, 3]), logits)
