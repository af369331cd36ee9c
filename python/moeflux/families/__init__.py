"""Model families: one small file each turns config and tensor names into a spec.

A module of this folder that has MODEL_TYPES, the `model_type`s of its configs, is a family; its
`build(checkpoint)` makes the spec. The other modules are what families share.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from ..checkpoint import Checkpoint, fail
from ..spec import Spec

FAMILIES: dict[str, Callable[[Checkpoint], Spec]] = {
    model_type: module.build
    for found in pkgutil.iter_modules(__path__)
    for module in [importlib.import_module(f"{__name__}.{found.name}")]
    for model_type in getattr(module, "MODEL_TYPES", ())
}


def build_spec(checkpoint: Checkpoint) -> Spec:
    """Builds the spec of a checkpoint of any known family.

    Raises:
        FormatError: unknown family, or tensors that do not fit the config.
    """
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise fail("families", f"unknown model_type {model_type!r}: expected one of {known}",
                   checkpoint.config_file)  # fmt: skip
    return FAMILIES[model_type](checkpoint)
