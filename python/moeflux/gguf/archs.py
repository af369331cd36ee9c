"""What GGUF's architectures are here: the family, its config's fields, its tensors' names.

One table: a row is an architecture. Keys of the metadata stand without `ARCH.`; what no key says,
since llama.cpp has it in code, is in `says`. Names are those of the hub's checkpoints, with experts
in stacks. Source: llama.cpp's converter and loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import together, transforms
from .names import ATTENTION, BLOCK_SPARSE, FFN, HYBRID, LATENT, SHARED_EXPERT, TOP
from .together import Together
from .transforms import Transform

# Fields of a config, and the keys that hold them. Those of `REQUIRED` have no default; what the
# absence of others means in llama.cpp is in `ABSENT`.
FIELDS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": "expert_weights_norm",
}
REQUIRED = ("attention.layer_norm_rms_epsilon",)
ABSENT = {"rope_theta": 10000.0}
HYBRID_FIELDS = FIELDS | {
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "full_attention_interval": "full_attention_interval",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "linear_key_head_dim": "ssm.state_size",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
}
# Where all that a file says of the width of networks is that of an expert's.
OF_EXPERTS = {"num_local_experts": "expert_count", "intermediate_size": "feed_forward_length"}
GROUP_FIELDS = FIELDS | {
    "n_routed_experts": "expert_count",
    "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "n_group": "expert_group_count",
    "topk_group": "expert_group_used_count",
    "routed_scaling_factor": "expert_weights_scale",
}
LATENT_FIELDS = {to: key for to, key in GROUP_FIELDS.items()
                 if to not in ("head_dim", "num_key_value_heads")} | {
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
}  # fmt: skip
LATENT_SAYS = {"norm_topk_prob": False, "n_shared_experts": 0, "first_k_dense_replace": 0,
               "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0}  # fmt: skip
SIGMOID = {"expert_gating_func": (2,)}
GROUPED = {"expert_group_count": (), "expert_weights_scale": ()}
SCALED = {"rope.scaling.yarn_log_multiplier": ()}
# Keys that mean what the engine does only with these values.
ONE_WAY: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "expert_gating_func": (0, 1),
    "expert_group_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "rope.scale_linear": (0, 1),  # the factor of old files
    "rope.scaling.attn_factor": (0, 1),
    "rope.scaling.yarn_attn_factor": (0, 1),
    "rope.scaling.yarn_ext_factor": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "use_parallel_residual": (False,),
}


@dataclass(frozen=True)
class Arch:
    """An architecture.

    Attributes:
        model_type: of the family.
        tensors: those of a layer, without `.weight` and `.bias`.
        says: fields of the config that no key holds.
        fields: of the config, and their keys.
        transforms: of tensors that hold something else than the family's.
        one_way: of `ONE_WAY` what is otherwise; without values: any are right.
        biases: the field that says whether projections have biases.
        yarn: settings of YaRN that no key holds.
        together: makes fields of several keys, and of tensors' names and numbers.
        top: tensors outside of layers, as `tensors`.
        prefix: stands before the names of layers.
        read: names of tensors that `together` reads, and nothing else.
    """

    model_type: str
    tensors: Mapping[str, str]
    says: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=lambda: FIELDS)
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    one_way: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    biases: str = "attention_bias"
    yarn: Mapping[str, Any] = field(default_factory=dict)
    together: Together = together.nothing
    top: Mapping[str, str] = field(default_factory=lambda: TOP)
    prefix: str = "model."
    read: frozenset[str] = frozenset()


HYBRID_TRANSFORMS = {
    "ffn_gate_inp_shexp.weight": transforms.as_row,
    "ssm_conv1d.weight": transforms.as_column,
    "ssm_a": transforms.log_of_negative,
}

ARCHS = {
    "qwen3moe": Arch(
        "qwen3_moe",
        {**ATTENTION, "ffn_norm": "post_attention_layernorm", **FFN},
        {"norm_topk_prob": True},
    ),
    "qwen2moe": Arch(
        "qwen2_moe",
        {**ATTENTION, "ffn_norm": "post_attention_layernorm", **FFN, **SHARED_EXPERT},
        {"norm_topk_prob": False},
        FIELDS | {"shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
        {"ffn_gate_inp_shexp.weight": transforms.as_row},
        biases="qkv_bias",
    ),
    "qwen3next": Arch(
        "qwen3_next", HYBRID, {"norm_topk_prob": True}, HYBRID_FIELDS, HYBRID_TRANSFORMS
    ),
    # The family has value heads beside each other that share a key head; here each has its own.
    "qwen35moe": Arch(
        "qwen3_5_moe_text",
        HYBRID,
        {},
        HYBRID_FIELDS | {"linear_num_key_heads": "ssm.time_step_rank"},
        HYBRID_TRANSFORMS
        | {
            "attn_qkv.weight": transforms.with_keys_of_values,
            "ssm_conv1d.weight": transforms.conv_with_keys_of_values,
        },
    ),
    "olmoe": Arch(
        "olmoe",
        {**ATTENTION, "ffn_norm": "post_attention_layernorm", **FFN},
        {"norm_topk_prob": False},
    ),
    # Mixtral; dense models have no experts, and are refused.
    "llama": Arch(
        "mixtral",
        {**ATTENTION, "ffn_norm": "post_attention_layernorm", **BLOCK_SPARSE},
        {},
        FIELDS | OF_EXPERTS,
        {
            "attn_q.weight": transforms.halves_of_heads("attention.head_count"),
            "attn_k.weight": transforms.halves_of_heads("attention.head_count_kv"),
        },
    ),
    "minimax-m2": Arch(
        "minimax_m2",
        {
            **ATTENTION,
            "ffn_norm": "post_attention_layernorm",
            **BLOCK_SPARSE,
            "exp_probs_b.bias": "block_sparse_moe.e_score_correction_bias",
        },
        {},
        FIELDS
        | OF_EXPERTS
        | {"intermediate_size": "expert_feed_forward_length", "rotary_dim": "rope.dimension_count"},
        one_way=SIGMOID,
    ),
    "gpt-oss": Arch(
        "gpt_oss",
        {
            **ATTENTION,
            "post_attention_norm": "post_attention_layernorm",
            **FFN,
            "ffn_gate_inp": "mlp.router",
            "attn_sinks.weight": "self_attn.sinks",
        },
        {"swiglu_limit": 7.0},
        FIELDS
        | {
            "num_local_experts": "expert_count",
            "intermediate_size": "expert_feed_forward_length",
            "sliding_window": "attention.sliding_window",
        },
        one_way={
            "expert_gating_func": (3,),
            "attention.sliding_window": (),
            "attention.sliding_window_pattern": (2,),  # even layers have the window
        },
        yarn={"truncate": False},
    ),
    "glm4moe": Arch(
        "glm4_moe",
        {
            **ATTENTION,
            "post_attention_norm": "post_attention_layernorm",
            **FFN,
            **{gguf: name.replace("shared_expert", "shared_experts")
               for gguf, name in SHARED_EXPERT.items()},
            "exp_probs_b.bias": "mlp.gate.e_score_correction_bias",
        },
        {"norm_topk_prob": False, "n_shared_experts": 0, "first_k_dense_replace": 0},
        GROUP_FIELDS,
        one_way=SIGMOID | GROUPED,
    ),
    # DeepSeek-V3 and its kin; V2's routers are softmax's, and refused, as are files that say none.
    "deepseek2": Arch(
        "deepseek_v3", LATENT, LATENT_SAYS, LATENT_FIELDS, one_way=SIGMOID | GROUPED | SCALED,
        together=together.deepseek2,
    ),
    "mistral4": Arch(
        "mistral4", LATENT, LATENT_SAYS, LATENT_FIELDS, one_way=GROUPED | SCALED,
        together=together.mistral4,
    ),
    "gemma4": Arch(
        "gemma4_text",
        {
            **ATTENTION,
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
            "post_ffw_norm": "post_feedforward_layernorm",
            "post_ffw_norm_1": "post_feedforward_layernorm_1",
            "post_ffw_norm_2": "post_feedforward_layernorm_2",
            **{gguf: name.replace("mlp.experts", "experts") for gguf, name in FFN.items()},
            "ffn_gate_inp": "router.proj",
            # by their whole names
            "ffn_gate_inp.scale": "router.scale",
            "ffn_down_exps.scale": "router.per_expert_scale",
            "layer_output_scale.weight": "layer_scalar",
        },
        {"enable_moe_block": True, "hidden_activation": "gelu_pytorch_tanh"},
        {to: key for to, key in FIELDS.items()
         if to not in ("num_experts_per_tok", "num_key_value_heads", "rope_theta")}
        | {
            "top_k_experts": "expert_used_count",
            "head_dim": "attention.key_length_swa",
            "global_head_dim": "attention.key_length",
            "sliding_window": "attention.sliding_window",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        one_way={"attention.sliding_window": (), "final_logit_softcapping": ()},
        together=together.gemma4,
        read=frozenset(("rope_freqs.weight",)),
    ),
    "lfm2moe": Arch(
        "lfm2_moe",
        {
            **ATTENTION,
            "attn_norm": "operator_norm",
            "ffn_norm": "ffn_norm",
            "attn_output": "self_attn.out_proj",
            "attn_q_norm": "self_attn.q_layernorm",
            "attn_k_norm": "self_attn.k_layernorm",
            **{f"shortconv.{part}": f"conv.{part}" for part in ("conv", "in_proj", "out_proj")},
            "ffn_gate": "feed_forward.w1",
            "ffn_up": "feed_forward.w3",
            "ffn_down": "feed_forward.w2",
            **{gguf: name.replace("block_sparse_moe", "feed_forward")
               for gguf, name in BLOCK_SPARSE.items()},
            "exp_probs_b.bias": "feed_forward.expert_bias",
        },
        {"norm_topk_prob": True},
        {to: key for to, key in FIELDS.items() if to not in ("norm_topk_prob", "rms_norm_eps")}
        | {
            "norm_eps": "attention.layer_norm_rms_epsilon",
            "num_dense_layers": "leading_dense_block_count",
            "conv_L_cache": "shortconv.l_cache",
            "routed_scaling_factor": "expert_weights_scale",
        },
        one_way=SIGMOID | {"expert_weights_norm": (True,), "expert_weights_scale": ()},
        together=together.lfm2moe,
        top=TOP | {"token_embd_norm": "model.embedding_norm"},
    ),
    # Layers of one part each. The converter puts the channels of queries and of keys into the same
    # other order, which nothing tells where positions do not turn them.
    "nemotron_h_moe": Arch(
        "nemotron_h",
        {
            "attn_norm": "norm",
            **{f"ssm_{gguf}": f"mixer.{name}" for gguf, name in (
                ("in", "in_proj"), ("conv1d", "conv1d"), ("norm", "norm"), ("out", "out_proj"),
                ("a", "A_log"), ("d", "D"), ("dt.bias", "dt_bias"))},
            **{gguf: name.replace("self_attn", "mixer") for gguf, name in ATTENTION.items()
               if name.endswith("proj")},
            **{gguf: name.replace("mlp", "mixer") for gguf, name in FFN.items()
               if "gate_proj" not in name},
            "ffn_up_shexp": "mixer.shared_experts.up_proj",
            "ffn_down_shexp": "mixer.shared_experts.down_proj",
            "ffn_latent_down": "mixer.fc1_latent_proj",
            "ffn_latent_up": "mixer.fc2_latent_proj",
            "exp_probs_b.bias": "mixer.gate.e_score_correction_bias",
        },
        {"mlp_hidden_act": "relu2", "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
         "norm_topk_prob": False, "routed_scaling_factor": 1.0},
        {to: key for to, key in GROUP_FIELDS.items()
         if to not in ("first_k_dense_replace", "rms_norm_eps", "num_experts")}
        | {
            "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
            "moe_shared_expert_intermediate_size": "expert_shared_feed_forward_length",
            "moe_latent_size": "moe_latent_size",
            "conv_kernel": "ssm.conv_kernel",
            "mamba_num_heads": "ssm.time_step_rank",
            "n_groups": "ssm.group_count",
            "ssm_state_size": "ssm.state_size",
        },
        {"ssm_a": transforms.log_of_negative},
        one_way=SIGMOID | GROUPED,
        together=together.nemotron_h,
        top={"token_embd": "backbone.embeddings", "output_norm": "backbone.norm_f",
             "output": "lm_head"},
        prefix="backbone.",
    ),
}  # fmt: skip
