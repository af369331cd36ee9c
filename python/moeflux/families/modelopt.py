"""Weights as NVIDIA's ModelOpt stores them: floats of 8 or of 4 bits.

A matrix X of 8 bits ("FP8") is `X.weight`, F8_E4M3, and `X.weight_scale`, one F32; value = weight *
scale. One of 4 bits ("NVFP4") is `X.weight`, U8 [out, columns / 2], whose byte i has code 2 i in
its low bits and code 2 i + 1 in the high ones, `X.weight_scale`, F8_E4M3 [out, columns / 16], and
`X.weight_scale_2`, one F32; value = E2M1 of the code * scale * scale_2. Which a matrix is, or
neither, its tensors tell: releases mix them.

Scales of activations (`X.input_scale`) and of a cache (`k_proj.k_scale`, `v_proj.v_scale`) are left
alone: neither is quantised so here. Source: the checkpoints' hf_quant_config.json and what vLLM
reads of them.
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
    """The format of 8 bits, and columns that a scale covers. `method`: the config's section.

    Raises:
        FormatError: the section asks for something else than these formats.
    """
    algorithm = method.values.get("quant_algo")
    if algorithm not in ("FP8", "NVFP4", "MIXED_PRECISION"):
        raise config.bad(f"expected quant_algo 'FP8', 'NVFP4' or 'MIXED_PRECISION' in "
                         f"quantization_config, found {show(algorithm)}: no other is "
                         "done")  # fmt: skip
    return fp8.OF_TENSOR


def as_planes(config: Config, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with scales under the names of their planes.

    Raises:
        FormatError: scales are there under both names.
    """
    return one_each(renamed(config, table, ".weight", {
        ".weight_scale": (".scales", {}),
        ".weight_scale_2": (".supers", {}),
        ".input_scale": ("", {}),
        ".k_scale": ("", {}),
        ".v_scale": ("", {}),
    }))  # fmt: skip
