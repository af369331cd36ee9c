"""Hunyuan 3."""

from .family import COMMON, Family

FAMILY = Family(
    base=COMMON
    | {
        "architectures": ["HYV3ForCausalLM"],
        "expert_hidden_dim": 64,
        "first_k_dense_replace": 1,
        "intermediate_size": 192,
        "model_type": "hy_v3",
        "moe_router_enable_expert_bias": True,
        "moe_router_use_sigmoid": True,
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
        "num_shared_experts": 1,
        "qk_norm": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 11158840.0,
        "route_norm": True,
        "router_scaling_factor": 2.826,
    },
    transformers="HYV3ForCausalLM",
    tolerance=(2e-4, 1e-5),
    router="router.gate",
    selection_bias="expert_bias",
    score="sigmoid",
    sum_eps=1e-20,
    factor="router_scaling_factor",
    shared="shared_mlp",
    shared_gated=False,
    shared_width="moe_intermediate_size",
    shared_count="num_shared_experts",
    normalised=True,
    mlx=False,
)
