"""Qwen3.5 and 3.6: the text part."""

from .family import COMMON, DELTA_NET, Family

FAMILY = Family(
    base=COMMON
    | DELTA_NET
    | {
        "attn_output_gate": True,
        "layer_types": ["linear_attention"] * 3 + ["full_attention", "linear_attention"],
        "mamba_ssm_dtype": "float32",
        "model_type": "qwen3_5_moe_text",
        "mtp_num_hidden_layers": 1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
        },
    },
    hub_prefix="model.language_model.",
    mlx_prefix="language_model.model.",
    mlx_head="language_model.lm_head",
    zero_centred_norms=True,
    gated_attention=True,
    split_delta_net=True,
    fused_experts=True,
    transformers="Qwen3_5MoeForCausalLM",
    tolerance=(2e-3, 5e-5),
    normalised=True,
    mtp=True,
    wrapper={
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "vision_config": {"model_type": "qwen3_5_moe", "depth": 1, "hidden_size": 32},
    },
)
