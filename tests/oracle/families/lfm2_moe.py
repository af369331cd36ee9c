"""LFM2."""

from .family import COMMON, Family, renamed

FAMILY = Family(
    base=renamed(COMMON, rms_norm_eps="norm_eps", attention_bias="conv_bias")
    | {
        "architectures": ["Lfm2MoeForCausalLM"],
        "conv_L_cache": 3,
        "intermediate_size": 192,
        "layer_types": ["conv", "full_attention", "conv", "full_attention", "conv"],
        "model_type": "lfm2_moe",
        "norm_eps": 1e-5,
        "norm_topk_prob": True,
        "num_dense_layers": 1,
        "num_hidden_layers": 5,
        "pad_token_id": 0,
        "rope_theta": 1000000.0,
        "routed_scaling_factor": 1.5,
        "tie_embedding": True,
        "tie_word_embeddings": True,
        "use_expert_bias": True,
    },
    transformers="Lfm2MoeForCausalLM",
    tolerance=(2e-4, 1e-5),
    norms=("operator_norm", "ffn_norm"),
    final_norm="embedding_norm",
    eps="norm_eps",
    attention_out="out_proj",
    head_norms="{}_layernorm",
    convolution=True,
    dense="feed_forward",
    dense_names=("w1", "w3", "w2"),
    moe="feed_forward",
    selection_bias="expert_bias",
    score="sigmoid",
    sum_eps=1e-6,
    factor="routed_scaling_factor",
    experts=("w1", "w3", "w2"),
    bias="conv_bias",
    biased="",
)
