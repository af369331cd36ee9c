"""MiniMax-M2."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="num_local_experts", moe_intermediate_size="intermediate_size")
    | {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "attn_type_list": [1, 1, 1],
        "model_type": "minimax_m2",
        "num_hidden_layers": 3,
        "qk_norm_type": "per_layer",
        "rope_theta": 5000000.0,
        "rotary_dim": 16,
        "scoring_func": "sigmoid",
        "shared_intermediate_size": 0,
        "use_qk_norm": True,
        "use_routing_bias": True,
    },
    transformers="MiniMaxM2ForCausalLM",
    tolerance=(2e-4, 1e-5),
    moe="block_sparse_moe",
    selection_bias="e_score_correction_bias",
    score="sigmoid",
    experts=("w1", "w3", "w2"),
    n_experts="num_local_experts",
    d_ff="intermediate_size",
    whole_norms=True,
    normalised=True,
)
