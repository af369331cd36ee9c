"""Qwen3-Next."""

from .family import COMMON, DELTA_NET, SPARSE, Family

FAMILY = Family(
    base=COMMON
    | SPARSE
    | DELTA_NET
    | {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "partial_rotary_factor": 0.25,
        "rope_scaling": None,
        "rope_theta": 10000000,
    },
    zero_centred_norms=True,
    gated_attention=True,
    transformers="Qwen3NextForCausalLM",
    tolerance=(5e-4, 1e-5),
    mtp=True,
)
