"""Methods of quantisation by the name that a config gives: `quant_method`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import show
from ..checkpoint import Checkpoint
from ..safetensors_header import Tensor
from . import compressed, fp8, modelopt
from .config import Config, way_out

_MODULES = {module.METHOD: module for module in (compressed, fp8, modelopt)}
METHODS = tuple(_MODULES)


def as_planes(
    checkpoint: Checkpoint, config: Config, section: dict[str, Any], reads: tuple[str, ...]
) -> tuple[tuple[str, int] | None, Mapping[str, Tensor]]:
    """Format and group of all quantised matrices, and the tensors under the names of planes.

    Args:
        checkpoint: whose tensors they are.
        config: of the model.
        section: what it says of the method.
        reads: the methods that are read.

    Returns:
        No format where each matrix has its own, as MLX's do, or another reader knows it.

    Raises:
        FormatError: another method, or one that asks for what is not done.
    """
    method = section.get("quant_method")
    if method is not None and method not in reads:
        raise config.bad(f"expected weights that are {', '.join(('plain', *reads))} or MLX's, "
                         f"found quant_method {show(method)}{way_out(method)}")  # fmt: skip
    if method not in _MODULES:
        return None, checkpoint.tensors
    module = _MODULES[method]
    form = module.form(config, Config(checkpoint, section))
    return form, module.as_planes(config, checkpoint.tensors)
