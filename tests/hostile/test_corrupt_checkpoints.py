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


@pytest.mark.parametrize(
    ("first", "second"),  # in the order of loading; matrices are read by threads, vectors at once
    [
        ("model.embed_tokens.scales", "model.norm.weight"),
        ("lm_head.biases", "model.layers.0.self_attn.q_proj.scales"),
    ],
)
def test_of_two_damaged_tensors_the_first_is_told_every_time(first, second, tmp_path):
    folder = build(tmp_path, "qwen3_moe", "mlx-q4")
    for tensor in (second, first):
        corrupt.fill_with_nan(folder, tensor)
        for _ in range(30):
            with pytest.raises(moeflux.FormatError, match=f"in tensor {tensor} |in {tensor} "):
                moeflux.load(folder, **ROOM)
