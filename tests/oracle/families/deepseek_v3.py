"""DeepSeek-V3 and Kimi-K2."""

from .family import BY_GROUPS, COMMON, GROUPED, LATENT, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="n_routed_experts")
    | GROUPED
    | LATENT
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "n_group": 4,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 4.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
            "original_max_position_embeddings": 1024,
            "type": "yarn",
        },
        "rope_theta": 10000.0,
        "routed_scaling_factor": 2.5,
        "topk_group": 2,
    },
    transformers="DeepseekV3ForCausalLM",
    tolerance=(2e-4, 1e-5),
    latent=True,
    mlx=False,
    **BY_GROUPS,
)
