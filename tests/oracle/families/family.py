"""What distinguishes a family, as data, and what configs have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

EOS_ID = 256  # the byte-level tokenizer of tokenizer_file.py: 256 bytes, then <|im_end|>


@dataclass(frozen=True)
class Family:
    """Conventions of one `model_type`.

    Attributes:
        base: text config in the family's own hub dialect, every structural feature on.
        transformers: the class of transformers that computes its goldens.
        tolerance: max and mean absolute logit difference of an f32 engine from a golden.
        hub_prefix / mlx_prefix: what stands before `layers.{i}.` and `embed_tokens`.
        hub_head / mlx_head: name of the output matrix.
        embedding: that of the input matrix, behind the prefix.
        norms / final_norm: of a layer, before its mixer and its network; before the head.
        pattern: the config's field of a letter a layer, each of which has a mixer or a network:
            M for Mamba-2, * for attention, E for experts, - for a dense network.
        eps: the config's field of what joins the squares in norms.
        attention: the module of attention.
        attention_out / head_norms: the output's matrix of attention, and the norms of its heads
            with `{}` for q and k, below `attention`.
        rotated: queries and keys are.
        dense / dense_names: the module of a dense network, and its gate, up and down in hub files.
        sandwich: layers are Gemma's.
        top_k: the config's field of how many experts a token has.
        query_gain: of the numbers of queries' norms.
        convolution: layers of the kind "conv" are gated convolutions.
        moe: the module of a layer that has router and experts; "" is the layer itself.
        router: its matrix, below `moe`.
        router_is_plain: mlx-lm does not quantise it.
        selection_bias: what joins the scores for the choice of experts, below `moe`; or none.
        score: what weights are made of: the "softmax" of all logits or the "sigmoid" of each.
        sum_eps: joins the sum of the chosen scores.
        factor: the config's field of what multiplies weights, if there is one.
        gated: networks have gate and up; else the square of what is positive of up alone.
        experts: gate, up and down of an expert in hub files.
        mlx_experts / stacked: the module of their stacks in MLX files, and the names there.
        n_experts / d_ff: the config's fields of the number and the width of experts.
        shared: the shared expert, below `moe`.
        shared_gated: its output goes through a sigmoid.
        shared_width / shared_count: the config's fields of its width and what multiplies that.
        normed_heads: queries and keys have a norm a head.
        whole_norms: or one over all heads.
        bias / biased: the config's field that says whether there are biases, and of which of the
            projections q, k, v and o.
        mlx: mlx-lm has it.
        beyond_devices: what of it no kernel of a device does, in the words of the refusal.
        normalised: weights of the chosen experts always sum to 1; else `norm_topk_prob` says it.
        zero_centred_norms: hub files store w where the model multiplies by 1 + w.
        gated_attention: q_proj has per head [query | gate] rows.
        split_delta_net: in_proj_{qkv,z,b,a} instead of in_proj_{qkvz,ba} grouped by key head.
        fused_experts: hub files hold gate_up_proj [E,2I,H] and down_proj [E,H,I].
        interleaved_experts: or gate_up_proj [E,H,2I], in turns a column of gate and one of up, and
            down_proj [E,I,H].
        biased_experts: router and experts have biases.
        clamped: experts are clamped gated units.
        sinks: heads have a sink.
        latent: attention is over latents (MLA), whose second projection MLX form leaves plain.
        mtp: hub files hold a multi-token-prediction head, too.
        wrapper: the outer config, when the text config is nested in its `text_config`.
    """

    base: Config
    transformers: str
    tolerance: tuple[float, float]
    hub_prefix: str = "model."
    mlx_prefix: str = "model."
    hub_head: str = "lm_head"
    mlx_head: str = "lm_head"
    embedding: str = "embed_tokens"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    final_norm: str = "norm"
    pattern: str = ""
    eps: str = "rms_norm_eps"
    attention: str = "self_attn"
    attention_out: str = "o_proj"
    head_norms: str = "{}_norm"
    rotated: bool = True
    dense: str = "mlp"
    dense_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    sandwich: bool = False
    top_k: str = "num_experts_per_tok"
    query_gain: float = 1.0
    convolution: bool = False
    moe: str = "mlp"
    router: str = "gate"
    router_is_plain: bool = False
    selection_bias: str = ""
    score: str = "softmax"
    sum_eps: float = 0.0
    factor: str = ""
    gated: bool = True
    experts: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    n_experts: str = "num_experts"
    d_ff: str = "moe_intermediate_size"
    shared: str = "shared_expert"
    shared_gated: bool = True
    shared_width: str = "shared_expert_intermediate_size"
    shared_count: str = ""
    normed_heads: bool = True
    whole_norms: bool = False
    bias: str = "attention_bias"
    biased: str = "qkvo"
    mlx: bool = True
    beyond_devices: str = ""
    normalised: bool = False
    zero_centred_norms: bool = False
    gated_attention: bool = False
    split_delta_net: bool = False
    mlx_experts: str = "switch_mlp"
    stacked: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    fused_experts: bool = False
    interleaved_experts: bool = False
    biased_experts: bool = False
    clamped: bool = False
    sinks: bool = False
    latent: bool = False
    mtp: bool = False
    wrapper: Config | None = None

    @property
    def matrices(self) -> tuple[str, ...]:
        """The usual names of a network's matrices."""
        return ("gate_proj", "up_proj", "down_proj")[0 if self.gated else 1 :]

    @property
    def inside(self) -> str:
        """What stands between a layer's name and those of the parts of its MoE module."""
        return f"{self.moe}." if self.moe else ""


COMMON: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": EOS_ID,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 64,
    "num_attention_heads": 4,
    "num_experts": 24,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 257,
}
SPARSE: Config = {
    "decoder_sparse_step": 1,
    "intermediate_size": 192,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "output_router_logits": False,
}
GROUPED: Config = {
    "first_k_dense_replace": 1,
    "intermediate_size": 192,
    "n_shared_experts": 2,
    "norm_topk_prob": True,
    "num_hidden_layers": 3,
    "num_nextn_predict_layers": 1,
}
# Facts of `Family` that go with it: DeepSeek's router and names, a plain shared expert.
BY_GROUPS: dict[str, Any] = {
    "router_is_plain": True,
    "selection_bias": "gate.e_score_correction_bias",
    "score": "sigmoid",
    "sum_eps": 1e-20,
    "factor": "routed_scaling_factor",
    "n_experts": "n_routed_experts",
    "shared": "shared_experts",
    "shared_gated": False,
    "shared_width": "moe_intermediate_size",
    "shared_count": "n_shared_experts",
}
LATENT: Config = {
    "head_dim": 16,  # of what is rotated
    "kv_lora_rank": 64,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
DELTA_NET: Config = {
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 32,
    "num_hidden_layers": 5,
    "shared_expert_intermediate_size": 64,
}


def renamed(config: Config, **names: str) -> Config:
    """A config whose fields have other names: renamed(COMMON, num_experts="num_local_experts")."""
    return {names.get(key, key): value for key, value in config.items()}
