"""GPT-OSS."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="num_local_experts", moe_intermediate_size="intermediate_size")
    | {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "model_type": "gpt_oss",
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "output_router_logits": False,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000.0,
        "sliding_window": 16,
        "swiglu_limit": 1.5,  # 7 in releases, which nothing here would meet
    },
    transformers="GptOssForCausalLM",
    tolerance=(2e-4, 1e-5),
    router="router",
    n_experts="num_local_experts",
    d_ff="intermediate_size",
    mlx_experts="experts",
    interleaved_experts=True,
    biased_experts=True,
    clamped=True,
    sinks=True,
    normed_heads=False,
    normalised=True,
)
