"""GLM-4.7-Flash: latent attention, sigmoid router, plain shared expert, a dense first layer."""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Spec
from .deepseek import build_latent

MODEL_TYPES = ("glm4_moe_lite",)


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Glm4MoeLiteForCausalLM checkpoint (hub layout) to the spec."""
    return build_latent(checkpoint, "rms_norm_eps", "routed_scaling_factor", first=1)
