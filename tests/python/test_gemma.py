"""Gemma's layers: shapes beside those of the goldens, far positions, both dialects of a config."""

import json

import numpy as np
import pytest

import moeflux
from oracle import Reference, build
from oracle.families import FAMILIES
from support.few import few

TOKENS = [int(t) for t in np.random.Generator(np.random.PCG64(9)).integers(0, 250, 600)]
ROOM = {"memory": "128MiB", "context": 640}
GENTLE = {"branch_gain": 0.25, "num_hidden_layers": 2}
BY_LAYER = {"1": {"head_dim": 64, "num_key_value_heads": 1}}


def close(found, expected):
    difference = np.abs(found - expected)
    worst, mean = FAMILIES["gemma4"].tolerance
    assert difference.max() <= worst and difference.mean() <= mean


@pytest.mark.parametrize(
    "options", few(1, [{"sliding_window": 300}, {"attention_k_eq_v": False, "sliding_window": 1},
                       {"num_global_key_value_heads": 2, "final_logit_softcapping": None}]),
    ids=str,
)  # fmt: skip
def test_other_shapes_and_far_positions_meet_float64_and_keep_their_bits(options, tmp_path):
    folder = build(tmp_path, "gemma4", "hf-f32", **GENTLE | options)
    model = moeflux.load(folder, **ROOM)
    whole = model.session().step(TOKENS, all_logits=True)
    close(whole, Reference(folder).forward(TOKENS).logits)
    session, at = model.session(), 0
    for n in (250, *[1] * 12, 300, 38):
        found = session.step(TOKENS[at : at + n], all_logits=True)
        assert np.array_equal(found, whole[at : at + n])
        at += n


def with_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    text = {**config["text_config"], **changes}
    config["text_config"] = {key: value for key, value in text.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_sizes_by_layer_are_those_of_the_hubs_fields(tmp_path):
    folder = build(tmp_path, "gemma4", "hf-bf16", **GENTLE)
    expected = moeflux.load(folder, **ROOM).session().step(TOKENS[:40], all_logits=True)
    with_config(folder, global_head_dim=None, num_global_key_value_heads=None,
                per_layer_config=BY_LAYER)  # fmt: skip
    found = moeflux.load(folder, **ROOM).session().step(TOKENS[:40], all_logits=True)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "changes",
    [{"enable_moe_block": False}, {"enable_moe_block": None}, {"hidden_size_per_layer_input": 256},
     {"hidden_size_per_layer_input": None}, {"num_kv_shared_layers": 1}, {"attention_bias": True},
     {"hidden_activation": "silu"}, {"use_bidirectional_attention": "all"},
     {"use_double_wide_mlp": True}, {"global_head_dim": 32}, {"global_head_dim": "64"},
     {"num_global_key_value_heads": 3}, {"attention_k_eq_v": False}, {"sliding_window": 0},
     {"final_logit_softcapping": -1.0}, {"final_logit_softcapping": float("inf")},
     {"per_layer_config": {"0": BY_LAYER["1"]}}, {"per_layer_config": {"1": {"head_dim": 32}}},
     {"per_layer_config": {"1": {"sliding_window": 8}}}, {"per_layer_config": {"1": None}},
     {"rope_parameters": {"full_attention": {"rope_type": "default",
                                             "partial_rotary_factor": 0.25}}},
     {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
     {"rope_parameters": {"sliding_attention": []}}, {"top_k_experts": 25},
     {"layer_types": ["full_attention"] * 2}, {"tie_word_embeddings": "no"}],
    ids=str,
)  # fmt: skip
def test_what_is_not_done_is_refused(changes, tmp_path, folder):
    for path in folder.iterdir():
        if path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    if "tie_word_embeddings" in changes:  # the top level has the say
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(moeflux.FormatError):
        moeflux.load(with_config(tmp_path, **changes), **ROOM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("gemma") / "m", "gemma4", "hf-bf16", num_hidden_layers=2)
