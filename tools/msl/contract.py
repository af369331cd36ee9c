"""The kernels that moeflux.ALL_KERNELS names; others may stand beside them in the library."""

CONTRACT = frozenset(
    {
        "attn_scores_batched",
        "attn_softmax_batched",
        "attn_values_batched",
        "compute_decay_beta",
        "conv1d_step",
        "dequant_matvec_2bit",
        "dequant_matvec_4bit",
        "dequant_matvec_4bit_batched",
        "dequant_matvec_4bit_fast",
        "dequant_matvec_4bit_v3",
        "dequant_matvec_4bit_v4",
        "dequant_matvec_4bit_v5",
        "dequant_matvec_8bit_v3",
        "fused_gate_up_swiglu",
        "gated_delta_net_step",
        "gated_rms_norm",
        "moe_combine_residual",
        "residual_add",
        "rms_norm_apply",
        "rms_norm_apply_bf16",
        "rms_norm_qk",
        "rms_norm_sum_sq",
        "sigmoid_gate",
        "swiglu_fused",
        "swiglu_fused_batched",
        "swiglu_fused_vec4",
        "weighted_sum",
    }
)
