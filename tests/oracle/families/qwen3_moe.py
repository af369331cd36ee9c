"""Qwen3-MoE."""

from .family import COMMON, SPARSE, Family

FAMILY = Family(
    base=COMMON
    | SPARSE
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "max_window_layers": 3,
        "num_hidden_layers": 3,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    transformers="Qwen3MoeForCausalLM",
    tolerance=(2e-4, 1e-5),
)
