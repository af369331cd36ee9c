"""DeepSeek-V3, R1 and Kimi-K2: latent attention, YaRN, sigmoid router with groups."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Spec
from .deepseek import build_latent

MODEL_TYPES = ("deepseek_v3", "kimi_k2")


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a DeepseekV3ForCausalLM checkpoint (hub layout) to the spec."""
    return build_latent(checkpoint, "n_group", "topk_group", "routed_scaling_factor",
                        "first_k_dense_replace", first=3)  # fmt: skip
