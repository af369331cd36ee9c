"""Rotary frequencies of every YaRN setting equal transformers' formula in double precision."""

import numpy as np
import pytest

import moeflux
from moeflux.checkpoint import open_checkpoint
from moeflux.families import build_spec
from oracle import build
from oracle.reference import Reference, rope_frequencies
from support.few import few

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
SETTINGS = {
    "plain": {},
    "yarn": YARN,
    "by its older name": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "not truncated": YARN | {"truncate": False},
    "truncated": YARN | {"truncate": True},
    "attention factor": YARN | {"attention_factor": 1.7},
    "attention factor of 0": YARN | {"attention_factor": 0.0},
    "mscale": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
    "one mscale": YARN | {"mscale": 0.7},
    "mscale of 0": YARN | {"mscale": 0.7, "mscale_all_dim": 0},
    "attention factor before mscale": YARN
    | {"attention_factor": 1.2, "mscale": 0.7, "mscale_all_dim": 1.3},
    "betas": YARN | {"beta_fast": 24, "beta_slow": 2.5},
    "one_beta": YARN | {"beta_fast": 8, "beta_slow": 8, "truncate": False},
    "no original": {"rope_type": "yarn", "factor": 2.0},
    "factor of 1": YARN | {"factor": 1.0},
}
THETA = 10000.0  # the ramp then lies inside the channels


def spec_of(folder, **options):
    checkpoint = open_checkpoint(build(folder, "qwen3_moe", "hf-f32", rope_theta=THETA, **options))
    return checkpoint.config, build_spec(checkpoint)


@pytest.mark.parametrize("dialect", few(1, ["hub", "transformers5"]))
@pytest.mark.parametrize("name", SETTINGS)
def test_frequencies_and_scale_equal_double_precision(tmp_path, name, dialect):
    config, spec = spec_of(tmp_path, rope_scaling=SETTINGS[name], dialect=dialect)
    frequencies, scale = rope_frequencies(config, config["head_dim"])
    np.testing.assert_allclose(spec.inv_freq, frequencies, rtol=1e-7)
    for layer in spec.layers:
        assert layer.mixer.rope_scale == pytest.approx(scale, rel=1e-12)


def test_every_setting_changes_something(tmp_path):
    """Else one of them could be ignored, here and by the oracle."""
    found = [spec_of(tmp_path / str(i), rope_scaling=SETTINGS[name])[1] for i, name in
             enumerate(("plain", "yarn", "not truncated", "attention factor", "mscale", "betas",
                        "no original"))]  # fmt: skip
    kinds = {(tuple(s.inv_freq), s.layers[0].mixer.rope_scale) for s in found}
    assert len(kinds) == len(found)


def test_the_original_length_of_the_top_level_wins_as_in_transformers(tmp_path):
    config, spec = spec_of(tmp_path, rope_scaling=YARN, original_max_position_embeddings=512)
    frequencies, _ = rope_frequencies(config, config["head_dim"])
    np.testing.assert_allclose(spec.inv_freq, frequencies, rtol=1e-7)


def test_rope_scaling_wins_over_rope_parameters_as_in_transformers(tmp_path):
    plain = {"rope_type": "default", "rope_theta": 500.0}
    config, spec = spec_of(tmp_path, rope_scaling=YARN, rope_parameters=plain)
    frequencies, _ = rope_frequencies(config, config["head_dim"])
    np.testing.assert_allclose(spec.inv_freq, frequencies, rtol=1e-7)


@pytest.mark.parametrize("name", ["not truncated", "attention factor", "mscale"])
def test_logits_under_a_setting_equal_double_precision(tmp_path, name):
    folder = build(tmp_path, "qwen3_moe", "hf-f32", rope_theta=THETA, branch_gain=0.25,
                   rope_scaling=SETTINGS[name])  # fmt: skip
    tokens = list(range(60))
    logits = moeflux.load(folder, memory="64MiB", context=64).session().step(tokens)
    np.testing.assert_allclose(logits, Reference(folder).forward(tokens).logits[-1], atol=2e-4)


@pytest.mark.parametrize(
    ("settings", "positions"),
    [({}, 4096), (YARN, 4096), (YARN | {"factor": 40.0}, 40960)],
    ids=str,
)
def test_the_length_a_model_was_made_for_counts_yarn(tmp_path, settings, positions):
    assert spec_of(tmp_path, rope_scaling=settings)[1].positions == positions
