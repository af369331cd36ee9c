"""Qwen3.5 / Qwen3.6 MoE: the text part of a multimodal checkpoint, with Qwen3-Next's layers.

The text config is nested; names differ by layout. Vision and MTP tensors are left alone.
"""

from __future__ import annotations

from ..checkpoint import Checkpoint
from ..spec import Spec
from . import wrapped
from .builder import Tensors
from .qwen3_next import build_hybrid

MODEL_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
# Transformers' config has no such fields: every layer has experts, whose weights are normalised.
_ONE_WAY = {"norm_topk_prob": (True,), "mlp_only_layers": ([],), "decoder_sparse_step": (1,)}


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3_5Moe checkpoint (hub, MLX or text-only layout) to the spec."""
    config = wrapped.text_config(checkpoint)
    config.require(_ONE_WAY)
    tensors = Tensors(checkpoint, config)
    return build_hybrid(tensors, wrapped.layout(tensors))
