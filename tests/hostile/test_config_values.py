"""What config.json may not say: numbers that are none or absurd, and models that are not done.

Each is a typed error that names key and file. A checkpoint that transformers would compute in
another way than the engine does is refused, not computed.
"""

import json
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import moeflux
from moeflux import families
from moeflux.checkpoint import open_checkpoint
from oracle import build
from oracle.corrupt import join_file, split_file
from oracle.families import FAMILIES
from oracle.goldens import SOME_FAMILIES

ROOM = {"memory": "64MiB", "context": 64}
COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "vocab_size", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
          "head_dim")  # fmt: skip
BAD = (0, -1, True, "8", 1.5, 2**40, 10**400, [], {})
HUGE = 10**400  # a JSON integer that no float holds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("config") / "m", family="qwen3_next", form="mlx-q4")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A bf16 form of every family, the hub's where it is read."""
    root = tmp_path_factory.mktemp("others")
    return {
        family: build(root / family, family, "mlx-bf16" if facts.interleaved_experts else "hf-bf16")
        for family, facts in FAMILIES.items()
    }


def load_with(tmp_path, folder, **changes):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config).update(changes)
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
        {"rms_norm_eps": HUGE},
        {"rms_norm_eps": 1e30},
        {"rms_norm_eps": 0.2},
        {"rms_norm_eps": -1e-6},
        {"rope_theta": HUGE},
        {"rope_theta": 1e-320},
        {"rope_theta": 1e300},
        {"rope_theta": float("inf")},
        {"rope_parameters": {"rope_theta": HUGE}},
        {"rope_theta": 0},
        {"rope_theta": "many"},
        {"rope_parameters": {"rope_theta": "many"}},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": "half"}},
        {"partial_rotary_factor": 0.0},
        {"partial_rotary_factor": 7.0},
        {"partial_rotary_factor": float("nan")},
        {"partial_rotary_factor": "half"},
        {"partial_rotary_factor": HUGE},
        {"partial_rotary_factor": 1e308},
        {"max_position_embeddings": HUGE},
        *(
            {"rope_scaling": {"type": "yarn", "factor": 4.0, key: value}}
            for key in (
                "factor",
                "attention_factor",
                "original_max_position_embeddings",
                "beta_fast",
                "beta_slow",
                "mscale",
                "mscale_all_dim",
            )
            for value in (HUGE, 1e300, float("nan"), float("inf"), -1.0, "four", True)
        ),
        {"rope_scaling": {"type": "yarn", "factor": 0.5}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": "no"}},
        {"rope_scaling": {"type": ["yarn"]}},
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


SPARSE = [
    {"mlp_only_layers": ["1"]},
    {"mlp_only_layers": [0]},  # the file has experts there
    {"decoder_sparse_step": 2},
]
MEANS_MORE = {"gemma4": {"hidden_act", "layer_types"}, "lfm2_moe": {"layer_types"}}
GROWING = FAMILIES["mistral4"].base["rope_parameters"]
# What transformers would do, or refuse to do, and the engine does not.
NOT_DONE = {
    "all": [
        {"hidden_act": "gelu"},
        {"hidden_act": "relu"},
        {"hidden_act": ["silu"]},
        {"use_sliding_window": True, "sliding_window": 16},
        {"layer_types": ["sliding_attention"] * 5},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
        {"rope_scaling": {"factor": 2.0}},  # of a type that has none
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "short_factor": [1.0]}},
        {"quantization_config": {"quant_method": "fp8"}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"num_hidden_layers": 2},  # of more
    ],
    "qwen3_moe": [
        *SPARSE,
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"layer_types": ["full_attention", "linear_attention", "full_attention"]},
    ],
    "qwen3_next": [{"attn_output_gate": False}, {"full_attention_interval": 2}, *SPARSE],
    "qwen3_5_moe": [{"attn_output_gate": False}, {"norm_topk_prob": False}, *SPARSE],
    "qwen2_moe": [{"attention_bias": True}, {"partial_rotary_factor": 0.5}, *SPARSE],
    "olmoe": [{"clip_qkv": 8.0}, {"partial_rotary_factor": 0.5}],
    "mixtral": [{"sliding_window": 16}, {"partial_rotary_factor": 0.5}],
    "glm4_moe": [
        {"use_qk_norm": False},  # the file has norms
        {"n_group": 5},
        {"n_group": 24},
        {"topk_group": 5},
        {"n_group": 8, "topk_group": 1},  # of three experts, to choose four
        {"routed_scaling_factor": -1.0},
        {"mlp_layer_types": ["dense", "sparse"]},
        {"mlp_layer_types": ["dense", "sparse", "none"]},
        {"first_k_dense_replace": 2},
        {"num_nextn_predict_layers": 0},
    ],
    "minimax_m2": [
        {"qk_norm_type": "per_head"},
        {"use_qk_norm": False},
        {"scoring_func": "softmax"},
        {"use_routing_bias": False},
        {"shared_intermediate_size": 64},
        {"attn_type_list": [0, 1, 1]},
        {"rotary_dim": 34},
    ],
    "gpt_oss": [
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"layer_types": ["linear_attention"] * 4},
        {"sliding_window": 0},
        {"sliding_window": "wide"},
        {"swiglu_limit": 0.0},
        {"swiglu_limit": float("inf")},
        {"partial_rotary_factor": 0.5},
        {"num_hidden_layers": 3},
    ],
    "lfm2_moe": [
        {"conv_bias": True},
        {"conv_L_cache": 1},
        {"conv_L_cache": 4},
        {"use_expert_bias": False},
        {"tie_embedding": "no"},
        {"num_dense_layers": 2},
        {"num_dense_layers": None},
        {"norm_eps": None},
        {"layer_types": ["conv"] * 5},
        {"layer_types": None},
        {"layer_types": None, "full_attn_idxs": [1, 5]},
    ],
    "nemotron_h": [
        {"hybrid_override_pattern": None},
        {"hybrid_override_pattern": ""},
        {"hybrid_override_pattern": 7},
        {"hybrid_override_pattern": "ME*ME-MX"},
        {"hybrid_override_pattern": "ME*ME-M"},
        {"hybrid_override_pattern": "MM*ME-ME"},
        {"hybrid_override_pattern": ["M", "E", "*", "M", "E", "-", "M", "E"]},
        {"hybrid_override_pattern": "M" * 5000, "num_hidden_layers": None},
        {"layers_block_type": ["mamba"] * 8},
        {"layers_block_type": ["mamba"] * 8, "hybrid_override_pattern": None},
        {"layers_block_type": ["conv"] * 8, "hybrid_override_pattern": None},
        {"layers_block_type": "mamba", "hybrid_override_pattern": None},
        {"layers_block_type": [{}], "hybrid_override_pattern": None},
        {"layers_block_type": [["mamba"]] * 8},
        {"sliding_window": 16},
        {"layer_norm_epsilon": None},
        {"head_dim": None},
        {"mlp_hidden_act": "silu"},
        {"mamba_hidden_act": "gelu"},
        {"mlp_bias": True},
        {"use_bias": True},
        {"mamba_proj_bias": True},
        {"use_conv_bias": False},
        {"use_conv_bias": "yes"},
        {"conv_kernel": 3},
        {"conv_kernel": 1},
        {"conv_kernel": 2**24},
        {"n_groups": 3},
        {"n_groups": 0},
        {"mamba_num_heads": 16},
        {"mamba_num_heads": 2**13},
        {"mamba_head_dim": 2**20},
        {"ssm_state_size": 64},
        {"ssm_state_size": -1},
        {"ssm_state_size": HUGE},
        {"moe_latent_size": 64},
        {"moe_latent_size": 0},
        {"n_shared_experts": 2},
        {"n_shared_experts": 0},
        {"moe_shared_expert_intermediate_size": None},
        {"moe_shared_expert_intermediate_size": 64},
        {"n_group": 5},
        {"routed_scaling_factor": float("nan")},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}},
        *(
            {"time_step_limit": limit}
            for limit in (
                [0.0, 0.1],
                [0.001, float("inf")],
                [0.0],
                7,
                [0.0, float("nan")],
                [0.0, {"__float__": "NaN"}],
                ["0", float("inf")],
            )
        ),
    ],
    "mistral4": [
        {"model_type": "mistral"},
        {"scoring_func": "sigmoid"},
        {"first_k_dense_replace": None},
        {"rope_interleave": False},
        {"rope_parameters": {**GROWING, "llama_4_scaling_beta": None}},
        {"rope_parameters": {**GROWING, "llama_4_scaling_beta": float("nan")}},
        {"rope_parameters": {**GROWING, "original_max_position_embeddings": 0.5}},
        {"rope_parameters": {**GROWING, "partial_rotary_factor": 0.5}},
        {"n_group": 5},
    ],
    "hy_v3": [
        {"qk_norm": False},
        {"route_norm": False},
        {"moe_router_use_sigmoid": False},
        {"mlp_bias": True},
        {"router_scaling_factor": float("inf")},
    ],
}


@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize("changes", NOT_DONE["all"], ids=str)
def test_a_model_that_is_not_done_is_refused(tmp_path, others, family, changes):
    with pytest.raises(moeflux.FormatError):
        load_with(tmp_path, others[family], **changes)


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, changes) for family in NOT_DONE if family != "all" for changes in NOT_DONE[family]],
    ids=str,
)
def test_a_model_that_is_not_done_in_one_family_is_refused(tmp_path, others, family, changes):
    with pytest.raises(moeflux.FormatError):
        load_with(tmp_path, others[family], **changes)


@pytest.mark.parametrize("kind", ["yarn", ["default"], {}], ids=str)
def test_what_rotates_is_refused_where_nothing_is_rotated(tmp_path, others, kind):
    with pytest.raises(moeflux.FormatError, match=r"'default' \(this family rotates nothing\), f"):
        load_with(tmp_path, others["nemotron_h"], rope_parameters={"rope_type": kind})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_with_biases_or_without_is_not_read_as_the_other(tmp_path, others, family):
    field = FAMILIES[family].bias
    with pytest.raises(moeflux.FormatError):
        load_with(tmp_path, others[family], **{field: not FAMILIES[family].base.get(field)})


@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "swish"},  # silu's other name
        {"hidden_act": None},
        {"sliding_window": 4096, "max_window_layers": 2},  # beside use_sliding_window false
        {"attention_dropout": 0.1},
        {"router_aux_loss_coef": 0.1, "output_router_logits": True},
        {"mamba_ssm_dtype": "bfloat16", "initializer_range": 1.0, "use_cache": False},
        {"mlp_only_layers": None, "decoder_sparse_step": None},
        {"layer_types": None},
        {"a_field": "of tomorrow"},
    ],
    ids=str,
)
def test_what_changes_no_text_changes_no_logits(tmp_path, others, family, changes):
    if changes.keys() & MEANS_MORE.get(family, set()):
        pytest.skip("that says something in this family")
    same_logits(tmp_path, others[family], changes)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3_5_moe", {"rope_scaling": None}),
        ("hy_v3", {"rope_scaling": None}),
        ("glm4_moe", {"mlp_layer_types": ["dense", "sparse", "sparse"]}),
        ("hy_v3", {"mlp_layer_types": ["dense", "sparse", "sparse"], "first_k_dense_replace": 3}),
        ("minimax_m2", {"rotary_dim": None, "partial_rotary_factor": 0.5}),
        ("gpt_oss", {"layer_types": None, "sliding_window": 16}),
        ("nemotron_h", {"rope_theta": 0, "partial_rotary_factor": 0.0, "sliding_window": None}),
    ],
    ids=str,
)
def test_the_same_in_other_fields_gives_the_same_logits(tmp_path, others, family, changes):
    same_logits(tmp_path, others[family], changes)


def same_logits(tmp_path, folder, changes):
    expected = moeflux.load(folder, **ROOM).session().step([1, 2, 3])
    found = load_with(tmp_path, folder, **changes).session().step([1, 2, 3])
    assert (found == expected).all()


def test_transposed_experts_of_gpt_oss_are_refused_by_name(tmp_path):
    build(tmp_path, "gpt_oss", "hf-bf16")
    with pytest.raises(moeflux.FormatError, match=r"MLX's layout .*found gate_up_proj,"):
        moeflux.load(tmp_path, **ROOM)


def store_also(folder, name, shape=(128,)):
    """One more tensor of zeros in a folder with a single file."""
    file = folder / "model.safetensors"
    header, data = split_file(file)
    n = 2 * int(np.prod(shape))
    header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [len(data)] * 2}
    header[name]["data_offsets"][1] += n
    join_file(file, header, data + bytes(n))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",  # beside attention_bias false
        "model.layers.0.self_attn.sinks",
        "model.layers.0.mlp.gate.e_score_correction_bias",
        "model.layers.0.mlp.shared_expert.up_proj.weight",
        "model.layers.0.mlp.experts.24.up_proj.weight",
        "model.layers.3.input_layernorm.weight",
        "model.embed_tokens.bias",
        "model.norm.bias",
        "lm_head.bias",
    ],
)
def test_a_tensor_of_the_text_part_that_nothing_reads_is_refused_by_name(tmp_path, name):
    folder = build(tmp_path, family="qwen3_moe", form="hf-bf16", shards=1)
    store_also(folder, name)
    with pytest.raises(moeflux.FormatError, match=name):
        moeflux.load(folder, **ROOM)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", {}),
        ("model.rotary_emb.inv_freq", {}),
        ("lm_head.weight", {"tie_word_embeddings": True}),
        ("mtp.layers.0.input_layernorm.weight", {}),
        ("model.visual.blocks.0.norm1.bias", {}),
        ("vision_tower.blocks.0.norm1.bias", {}),
    ],
)
def test_a_tensor_of_another_part_is_left_alone(tmp_path, name, options):
    folder = build(tmp_path, family="qwen3_moe", form="hf-bf16", shards=1, **options)
    store_also(folder, name)
    assert moeflux.load(folder, **ROOM).session().step([1]).shape == (257,)


@pytest.mark.parametrize(
    ("override", "message"),
    [(False, "lm_head in mode affine, mxfp4, mxfp8 or nvfp4, found 'none'"),
     ({"mode": "mxfp4"}, r"mxfp4_planes in groups of 32.*lm_head"),
     ({"mode": "mxfp4", "bits": 8}, "expected 4 bits in groups of 32, found 8 and 32 for lm_head")],
)  # fmt: skip
def test_a_matrix_that_is_quantised_in_another_way_than_said_is_refused(
    tmp_path, folder, override, message
):
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    with pytest.raises(moeflux.FormatError, match=message):
        load_with(tmp_path, folder, quantization=quantization | {"lm_head": override})


COUNTS = ["head_dim", "num_hidden_layers", "num_attention_heads", "num_experts"]
OF_DELTA_NETS = ["linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim"]


@pytest.mark.parametrize(
    ("family", "key"),
    [
        *(("qwen3_moe", key) for key in COUNTS),
        *(("qwen3_next", key) for key in COUNTS + OF_DELTA_NETS),
    ],
)
def test_a_large_number_is_refused_before_memory_is_taken_for_it(tmp_path, others, family, key):
    changes = {key: 1 << 24, "full_attention_interval": 1 << 24}
    if key == "linear_num_key_heads":
        changes["linear_num_value_heads"] = 1 << 24
    tracemalloc.start()
    try:
        with pytest.raises(moeflux.FormatError):
            load_with(tmp_path, others[family], **changes)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


# Fields whose absence means another number in transformers than in other families.
NEEDED = {
    "olmoe": ["rms_norm_eps"],
    "mixtral": ["rms_norm_eps", "rope_theta"],
    "glm4_moe": ["rms_norm_eps"],
    "minimax_m2": ["rope_theta"],
    "gpt_oss": ["rms_norm_eps", "rope_theta", "rope_scaling"],
    "hy_v3": ["rms_norm_eps", "rope_theta", "router_scaling_factor"],
}


@pytest.mark.parametrize(
    ("family", "field"), [(family, field) for family in NEEDED for field in NEEDED[family]]
)
def test_a_field_that_families_differ_in_is_not_guessed(tmp_path, others, family, field):
    # null is absent, too
    with pytest.raises(moeflux.FormatError, match=rf"expected .*{field}.*, found none"):
        load_with(tmp_path, others[family], **{field: None})


def test_theta_may_stand_in_either_place(tmp_path, others):
    theta = FAMILIES["mixtral"].base["rope_theta"]
    (tmp_path / "a").mkdir()
    inner = {"rope_theta": None, "rope_parameters": {"rope_theta": theta, "rope_type": "default"}}
    found = load_with(tmp_path / "a", others["mixtral"], **inner)
    (tmp_path / "b").mkdir()
    expected = load_with(tmp_path / "b", others["mixtral"])
    np.testing.assert_array_equal(
        found.session().step([1, 2, 3]), expected.session().step([1, 2, 3])
    )


def test_a_hybrid_without_a_delta_net_is_refused(tmp_path, others):
    types = {"layer_types": ["full_attention"] * FAMILIES["qwen3_next"].base["num_hidden_layers"]}
    with pytest.raises(moeflux.FormatError, match="expected a layer with a delta net, found none"):
        load_with(tmp_path, others["qwen3_next"], **types)


def test_a_long_list_of_dense_layers_is_refused_at_once(tmp_path, folder):
    begin = time.process_time()
    with pytest.raises(moeflux.FormatError, match="expected at most 4096 mlp_only_layers"):
        load_with(tmp_path, folder, mlp_only_layers=[7] * 300_000)
    assert time.process_time() - begin < 5


def test_names_of_layers_are_read_once_however_many_are_ignored(tmp_path, others):
    """A layer that predicts later tokens is left out by its number, another is refused."""
    build_of = families.FAMILIES["glm4_moe"]
    checkpoint = open_checkpoint(others["glm4_moe"])
    first = checkpoint.config["num_hidden_layers"]
    some = next(iter(checkpoint.tensors.values()))
    more = {f"model.layers.{first + i % 4000}.t{i}": some for i in range(100_000)}
    config = checkpoint.config | {"num_nextn_predict_layers": 4000}
    begin = time.process_time()
    build_of(replace(checkpoint, config=config, tensors=checkpoint.tensors | more))
    assert time.process_time() - begin < 2
    for name in (f"model.layers.{first + 4000}.t", f"model.layers.0{first}.t", "model.layers.x.t"):
        with pytest.raises(moeflux.FormatError, match=name):
            build_of(replace(checkpoint, config=config, tensors=checkpoint.tensors | {name: some}))
