"""Weights as NVIDIA's ModelOpt stores them: floats of 8 bits with a scale a matrix ("FP8").

A matrix X is `X.weight`, F8_E4M3, and `X.weight_scale`, one F32; value = weight * scale. Matrices
without it are plain. Scales of activations (`X.input_scale`) and of a cache of such floats
(`k_proj.k_scale`, `v_proj.v_scale`) are left alone: neither is quantised so here. Source: the
checkpoints' hf_quant_config.json and what vLLM reads of them.
"""

from __future__ import annotations

from ..arguments import show
from ..safetensors_header import Tensor
from . import fp8
from .config import Config
from .quantised import as_planes as renamed
from .quantised import one_each

METHOD = "modelopt"


def form(config: Config, method: Config) -> tuple[str, int]:
    """The format, and columns that a scale covers. `method`: the config's section.

    Raises:
        FormatError: the section asks for something else than this format.
    """
    algorithm = method.values.get("quant_algo")
    if algorithm != "FP8":
        raise config.bad(f"expected quant_algo 'FP8' in quantization_config, found "
                         f"{show(algorithm)}: no other is done")  # fmt: skip
    return fp8.OF_TENSOR


def as_planes(config: Config, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with scales under the names of their planes.

    Raises:
        FormatError: scales are there under both names.
    """
    return one_each(renamed(config, table, ".weight", {
        ".weight_scale": (".scales", {}),
        ".input_scale": ("", {}),
        ".k_scale": ("", {}),
        ".v_scale": ("", {}),
    }))  # fmt: skip
