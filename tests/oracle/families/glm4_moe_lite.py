"""GLM-4.7-Flash."""

from .family import BY_GROUPS, COMMON, GROUPED, LATENT, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="n_routed_experts")
    | GROUPED
    | LATENT
    | {
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "model_type": "glm4_moe_lite",
        "n_group": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "routed_scaling_factor": 1.8,
        "topk_group": 1,
        "v_head_dim": 40,  # wider than the plain part of keys, as in the release
    },
    transformers="Glm4MoeLiteForCausalLM",
    tolerance=(2e-4, 1e-5),
    latent=True,
    mlx=False,
    **BY_GROUPS,
)
