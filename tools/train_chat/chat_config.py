"""The chat model's shape: every matrix width is a multiple of 64, the quantisation group."""

from transformers import Qwen3MoeConfig

N_CONTEXT = 2048


def chat_config(tiny: bool = False) -> Qwen3MoeConfig:
    """15.7 M parameters, about 9 MB at 4 bits; `tiny` is a toy of the same structure."""
    return Qwen3MoeConfig(
        vocab_size=4096,
        hidden_size=64 if tiny else 256,
        intermediate_size=256,
        num_hidden_layers=2 if tiny else 8,
        num_attention_heads=2 if tiny else 6,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8 if tiny else 32,
        num_experts_per_tok=4,
        moe_intermediate_size=64,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        attention_bias=False,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        max_position_embeddings=N_CONTEXT,
        initializer_range=0.02,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=2,
    )
