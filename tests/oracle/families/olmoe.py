"""OLMoE."""

from .family import COMMON, Family

FAMILY = Family(
    base=COMMON
    | {
        "architectures": ["OlmoeForCausalLM"],
        "clip_qkv": None,
        "intermediate_size": 64,
        "model_type": "olmoe",
        "norm_topk_prob": False,
        "num_hidden_layers": 3,
        "output_router_logits": False,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
    },
    transformers="OlmoeForCausalLM",
    tolerance=(2e-4, 1e-5),
    d_ff="intermediate_size",
    whole_norms=True,
)
