"""Qwen3.5 / Qwen3.6 MoE: the text part of a multimodal checkpoint, with Qwen3-Next's layers.

The text config is nested; names differ by layout. Vision and MTP tensors are left alone.
"""

from __future__ import annotations

from ..checkpoint import Checkpoint, fail
from ..spec import Spec
from .builder import Tensors
from .config import Config
from .qwen3_next import build_hybrid

MODEL_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")
# Transformers' config has no such fields: every layer has experts, whose weights are normalised.
_ONE_WAY = {"norm_topk_prob": (True,), "mlp_only_layers": ([],), "decoder_sparse_step": (1,)}
# (what stands before `embed_tokens` and `layers`, the head): hub, MLX, text-only
_LAYOUTS = (
    ("model.language_model.", "lm_head"),
    ("language_model.model.", "language_model.lm_head"),
    ("model.", "lm_head"),
)


def build(checkpoint: Checkpoint) -> Spec:
    """Maps a Qwen3_5Moe checkpoint (hub, MLX or text-only layout) to the spec."""
    outer = Config(checkpoint)
    inner = outer.section("text_config")
    if inner:
        names = ("quantization", "quantization_config", "tie_word_embeddings")
        kept = {name: outer.values[name] for name in names if name in outer.values}
        inner = inner | kept  # the top level has the say on these
    config = Config(checkpoint, inner or outer.values)
    config.require(_ONE_WAY)
    tensors = Tensors(checkpoint, config)
    for prefix, head in _LAYOUTS:
        if tensors.has(f"{prefix}embed_tokens.weight"):
            return build_hybrid(tensors, prefix, head)
    expected = ", ".join(f"{prefix}embed_tokens.weight" for prefix, _ in _LAYOUTS)
    raise fail("families", f"expected one of {expected}, found none", checkpoint.path)
