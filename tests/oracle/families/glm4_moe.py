"""GLM-4.5 to 4.7."""

from .family import BY_GROUPS, COMMON, GROUPED, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="n_routed_experts")
    | GROUPED
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": True,
        "model_type": "glm4_moe",
        "n_group": 4,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "routed_scaling_factor": 2.5,
        "topk_group": 2,
        "use_qk_norm": True,
    },
    transformers="Glm4MoeForCausalLM",
    tolerance=(2e-4, 1e-5),
    biased="qkv",
    **BY_GROUPS,
)
