"""The demo model's shape: every matrix width is a multiple of 64, the quantisation group."""

from transformers import Qwen3NextConfig

N_CONTEXT = 2048


def demo_config(tiny: bool = False) -> Qwen3NextConfig:
    """24.7 M parameters, about 14 MB at 4 bits; `tiny` is a toy of the same structure."""
    return Qwen3NextConfig(
        vocab_size=4096,
        hidden_size=64 if tiny else 320,
        num_hidden_layers=4 if tiny else 8,
        full_attention_interval=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        partial_rotary_factor=0.25,
        rope_theta=10000.0,
        max_position_embeddings=N_CONTEXT,
        linear_num_key_heads=4,
        linear_num_value_heads=8,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_conv_kernel_dim=4,
        num_experts=32 if tiny else 40,
        num_experts_per_tok=4,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64 if tiny else 128,
        intermediate_size=128,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        norm_topk_prob=True,
        attention_bias=False,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        initializer_range=0.02,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_id=0,
    )
