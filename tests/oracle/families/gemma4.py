"""Gemma 4 with experts: the text part."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts_per_tok="top_k_experts", hidden_act="hidden_activation")
    | {
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "final_logit_softcapping": 8.0,
        "global_head_dim": 64,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 192,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "model_type": "gemma4_text",
        "num_global_key_value_heads": 1,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 0,
        "rope_parameters": {
            "full_attention": {
                "partial_rotary_factor": 0.25,
                "rope_theta": 1000000.0,
                "rope_type": "proportional",
            },
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "sliding_window": 16,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": "vision",
        "use_double_wide_mlp": False,
    },
    hub_prefix="model.language_model.",
    mlx_prefix="language_model.model.",
    mlx_head="language_model.lm_head",
    transformers="Gemma4ForCausalLM",
    tolerance=(5e-4, 3e-5),
    sandwich=True,
    query_gain=0.2,  # scores have no other scale
    moe="",
    router="router.proj",
    top_k="top_k_experts",
    mlx_experts="experts.switch_glu",
    fused_experts=True,
    normalised=True,
    beyond_devices="a factor of them",
    wrapper={
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "vision_config": {"model_type": "gemma4_vision", "num_hidden_layers": 1, "hidden_size": 32},
        "vocab_size": 257,
    },
)
