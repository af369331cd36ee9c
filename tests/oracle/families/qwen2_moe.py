"""Qwen2-MoE."""

from .family import COMMON, SPARSE, Family

FAMILY = Family(
    base=COMMON
    | SPARSE
    | {
        "architectures": ["Qwen2MoeForCausalLM"],
        "max_window_layers": 3,
        "model_type": "qwen2_moe",
        "norm_topk_prob": False,
        "num_hidden_layers": 3,
        "qkv_bias": True,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "shared_expert_intermediate_size": 128,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
    transformers="Qwen2MoeForCausalLM",
    tolerance=(2e-4, 1e-5),
    normed_heads=False,
    bias="qkv_bias",
    biased="qkv",
)
