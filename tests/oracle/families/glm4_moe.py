"""GLM-4.5 to 4.7."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="n_routed_experts")
    | {
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": True,
        "first_k_dense_replace": 1,
        "intermediate_size": 192,
        "model_type": "glm4_moe",
        "n_group": 4,
        "n_shared_experts": 2,
        "norm_topk_prob": True,
        "num_hidden_layers": 3,
        "num_nextn_predict_layers": 1,
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
    router_is_plain=True,
    selection_bias="gate.e_score_correction_bias",
    score="sigmoid",
    beyond_devices="sigmoid scores",
    sum_eps=1e-20,
    factor="routed_scaling_factor",
    n_experts="n_routed_experts",
    shared="shared_experts",
    shared_gated=False,
    shared_width="moe_intermediate_size",
    shared_count="n_shared_experts",
    biased="qkv",
)
