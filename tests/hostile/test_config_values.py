"""Numbers in config.json that are none, or absurd: a typed error that names key and file."""

import json

import pytest

import moeflux
from oracle import build

ROOM = {"memory": "64MiB", "context": 64}
COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "vocab_size", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
          "head_dim")  # fmt: skip
BAD = (0, -1, True, "8", 1.5, 2**40, [], {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("config") / "m", family="qwen3_next", form="mlx-q4")


def load_with(tmp_path, folder, **changes):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return moeflux.load(tmp_path, **ROOM)


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("key", COUNTS)
def test_bad_counts_are_refused_by_name(tmp_path, folder, key, value):
    with pytest.raises(moeflux.FormatError) as caught:
        load_with(tmp_path, folder, **{key: value})
    assert key in str(caught.value) and "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": "small"},
        {"rope_theta": 0},
        {"rope_theta": "many"},
        {"rope_parameters": {"rope_theta": "many"}},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": "half"}},
        {"partial_rotary_factor": 0.0},
        {"partial_rotary_factor": 7.0},
        {"partial_rotary_factor": float("nan")},
        {"partial_rotary_factor": "half"},
        {"rope_scaling": {"type": "yarn", "factor": "four"}},
        {"rope_scaling": {"type": "yarn"}},
        {"rope_scaling": {"type": "unheard-of"}},
        {"rope_scaling": 7},
        {"layer_types": ["full_attention"]},
        {"layer_types": "all"},
        {"linear_num_value_heads": 3},
        {"mlp_only_layers": 3},
        {"quantization": {"bits": 4, "group_size": 64, "mode": "unheard-of"}},
        {"quantization": "q4"},
    ],
    ids=str,
)
def test_other_bad_values_are_format_errors(tmp_path, folder, changes):
    with pytest.raises(moeflux.FormatError, match=r"config\.json|safetensors"):
        load_with(tmp_path, folder, **changes)
