"""Mixtral."""

from .family import COMMON, Family

FAMILY = Family(
    base=COMMON
    | {
        "architectures": ["MixtralForCausalLM"],
        "intermediate_size": 64,
        "model_type": "mixtral",
        "num_hidden_layers": 3,
        "num_local_experts": 8,
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
