"""dots.llm1."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="n_routed_experts")
    | {
        "architectures": ["Dots1ForCausalLM"],
        "first_k_dense_replace": 1,
        "intermediate_size": 192,
        "model_type": "dots1",
        "n_group": 2,
        "n_shared_experts": 2,
        "norm_topk_prob": True,
        "num_hidden_layers": 3,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "routed_scaling_factor": 2.5,
        "sliding_window": None,
        "topk_group": 1,
    },
    transformers="Dots1ForCausalLM",
    tolerance=(2e-4, 1e-5),
    router_is_plain=True,
    selection_bias="gate.e_score_correction_bias",
    score="sigmoid",
    sum_eps=1e-20,
    factor="routed_scaling_factor",
    n_experts="n_routed_experts",
    shared="shared_experts",
    shared_gated=False,
    shared_width="moe_intermediate_size",
    shared_count="n_shared_experts",
)
