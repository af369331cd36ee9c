"""Model families: one small file each turns config and tensor names into the native spec.

To add a family: write its file with a `build(checkpoint) -> Spec`, name it in FAMILIES, add a
golden.
"""

from __future__ import annotations

from collections.abc import Callable

from ..checkpoint import Checkpoint, fail
from . import qwen3_5_moe, qwen3_moe, qwen3_next
from .builder import Spec

FAMILIES: dict[str, Callable[[Checkpoint], Spec]] = {
    "qwen3_5_moe": qwen3_5_moe.build,
    "qwen3_5_moe_text": qwen3_5_moe.build,
    "qwen3_moe": qwen3_moe.build,
    "qwen3_next": qwen3_next.build,
}


def build_spec(checkpoint: Checkpoint) -> Spec:
    """Builds the native spec of a checkpoint of any known family.

    Raises:
        FormatError: unknown family, or tensors that do not fit the config.
    """
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise fail("families", f"unknown model_type {model_type!r}: expected one of {known}",
                   checkpoint.path / "config.json")  # fmt: skip
    return FAMILIES[model_type](checkpoint)
