"""The text part of a multimodal checkpoint: its nested config, what its tensors' names begin with.

Towers for images are left alone.
"""

from __future__ import annotations

from ..checkpoint import Checkpoint, fail
from .builder import Tensors
from .config import Config
from .stack import Names

# What stands before `embed_tokens` and `layers`, and the head: hub, MLX, text alone.
_LAYOUTS = (
    ("model.language_model.", "lm_head"),
    ("language_model.model.", "language_model.lm_head"),
    ("model.", "lm_head"),
)
_OUTER = ("quantization", "quantization_config", "tie_word_embeddings")


def text_config(checkpoint: Checkpoint) -> Config:
    """The config of the text part; the top level has the say on quantisation and a tied head."""
    outer = Config(checkpoint)
    inner = outer.section("text_config")
    if not inner:
        return outer
    return Config(checkpoint, inner | {k: outer.values[k] for k in _OUTER if k in outer.values})


def layout(tensors: Tensors) -> Names:
    """The names of the text part's tensors: what stands before them, and the head's.

    Raises:
        FormatError: there is no embedding under any of the names.
    """
    for prefix, head in _LAYOUTS:
        if tensors.has(f"{prefix}embed_tokens.weight"):
            return Names(prefix, head)
    expected = ", ".join(f"{prefix}embed_tokens.weight" for prefix, _ in _LAYOUTS)
    raise fail("families", f"expected one of {expected}, found none", tensors.checkpoint.path)
