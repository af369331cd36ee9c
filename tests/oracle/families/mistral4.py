"""Mistral Small 4: the text part."""

from .family import BY_GROUPS, COMMON, GROUPED, LATENT, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, num_experts="n_routed_experts")
    | GROUPED
    | LATENT
    | {
        "head_dim": 48,  # of plain and rotated part
        "model_type": "mistral4",
        "n_group": 1,
        "n_shared_experts": 1,
        "num_nextn_predict_layers": 0,
        "rope_interleave": True,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 128.0,
            "llama_4_scaling_beta": 0.1,
            "max_position_embeddings": 4096,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 32,  # so that queries grow within a prompt
            "partial_rotary_factor": 1 / 3,
            "rope_theta": 10000.0,
            "rope_type": "yarn",
            "type": "yarn",
        },
        "routed_scaling_factor": 1.5,
        "topk_group": 1,
    },
    hub_prefix="language_model.model.",
    hub_head="language_model.lm_head",
    mlx_prefix="language_model.model.",
    mlx_head="language_model.lm_head",
    transformers="Mistral4ForCausalLM",
    tolerance=(2e-4, 1e-5),
    latent=True,
    fused_experts=True,
    mlx=False,
    wrapper={
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "vision_config": {"model_type": "pixtral", "num_hidden_layers": 1, "hidden_size": 32},
    },
    **BY_GROUPS | {"selection_bias": "", "score": "softmax"},
)
