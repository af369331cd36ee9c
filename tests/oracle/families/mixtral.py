"""Mixtral."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="num_local_experts", moe_intermediate_size="intermediate_size")
    | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "num_local_experts": 8,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
    },
    transformers="MixtralForCausalLM",
    tolerance=(2e-4, 1e-5),
    moe="block_sparse_moe",
    experts=("w1", "w3", "w2"),
    n_experts="num_local_experts",
    d_ff="intermediate_size",
    normed_heads=False,
    normalised=True,
)
