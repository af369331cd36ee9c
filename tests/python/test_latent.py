"""Latent attention: shapes beside those of the goldens, far positions, what is refused."""

import json

import numpy as np
import pytest

import moeflux
from oracle import Reference, build
from oracle.goldens import TOLERANCE

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(9)).integers(0, 250, 600)]
ROOM = {"memory": "256MiB", "context": 640}


def close(found, expected, family):
    difference = np.abs(found - expected)
    assert difference.max() <= TOLERANCE[family][0]
    assert difference.mean() <= TOLERANCE[family][1]


@pytest.mark.parametrize(
    ("family", "options"),
    [("glm4_moe_lite", {"q_lora_rank": None}), ("deepseek_v3", {"rope_scaling": None}),
     ("deepseek_v3", {"num_attention_heads": 66, "num_key_value_heads": 66, "kv_lora_rank": 36}),
     ("glm4_moe_lite", {"num_attention_heads": 1, "num_key_value_heads": 1})],
    ids=str,
)  # fmt: skip
def test_other_shapes_meet_float64(family, options, tmp_path):
    folder = build(tmp_path / "m", family, "hf-f32", branch_gain=0.5, **options)
    found = moeflux.load(folder, **ROOM).session().step(TOKENS[:70], all_logits=True)
    close(found, Reference(folder).forward(TOKENS[:70]).logits, family)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("latent") / "m", "deepseek_v3", "hf-f32", branch_gain=0.25)


def test_far_positions_meet_float64_and_have_the_bits_of_a_token_alone(folder):
    """600 positions are three spans, and two extents of the cache."""
    model = moeflux.load(folder, **ROOM)
    whole = model.session().step(TOKENS, all_logits=True)
    close(whole, Reference(folder).forward(TOKENS).logits, "deepseek_v3")
    session = model.session()
    session.step(TOKENS[:250])
    for at in range(250, 275):
        assert np.array_equal(session.step(TOKENS[at : at + 1]), whole[at])
    session.step(TOKENS[275:598])
    assert np.array_equal(session.step(TOKENS[598:]), whole[599])


def test_a_cache_of_latents_does_not_grow_with_heads(tmp_path, folder):
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    other = build(tmp_path / "m", "deepseek_v3", "hf-f32", **heads)
    extents = []
    for path in (folder, other):
        session = moeflux.load(path, **ROOM).session()
        extents.append(session.bytes(512) - session.bytes(256))
    # Twice a latent of 64 and a key of 16, float32, in each of three layers.
    assert extents == [256 * 2 * (64 + 16) * 4 * 3] * 2


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("attention_bias", True, "attention_bias"), ("rope_interleave", False, "rope_interleave"),
     ("num_key_value_heads", 2, "num_key_value_heads 4"), ("topk_method", "greedy", "noaux"),
     ("scoring_func", "softmax", "scoring_func"), ("n_group", None, "expected n_group"),
     ("q_lora_rank", 0, "q_lora_rank"), ("v_head_dim", 1 << 20, "v_head_dim"),
     ("qk_rope_head_dim", 15, "even rotary"), ("kv_lora_rank", 63, "kv_a_proj_with_mqa")],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(field, value, words, tmp_path):
    folder = build(tmp_path / "m", "deepseek_v3", "hf-f32", num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(moeflux.FormatError, match=words):
        moeflux.load(folder, **ROOM)
