"""Floats of 8 bits by blocks of 128 x 128 ("fp8"): DeepSeek-V3's checkpoints, Qwen's, MiniMax'.

A matrix X [out, columns] is `X.weight`, F8_E4M3, and `X.weight_scale_inv`, F32 or BF16, a number a
block [ceil(out / 128), ceil(columns / 128)]; value = weight * scale. Matrices without it are plain.
Activations are not quantised here, as the scheme "dynamic" has programs do that multiply by floats
of 8 bits. Source: the class FineGrainedFP8Config of transformers and what dequantises there.
"""

from __future__ import annotations

from ..arguments import show
from ..safetensors_header import Tensor
from .config import Config
from .quantised import as_planes as renamed

METHOD = "fp8"
FORMAT, BLOCK = "fp8", 128
# Fields of the section, and the values that mean what the format is.
_ONE_WAY = {
    "fmt": (None, "e4m3", "float8_e4m3fn"),
    "activation_scheme": (None, "dynamic"),
    "weight_block_size": ([BLOCK, BLOCK],),
    "weight_per_tensor": (None, False),
    "act_per_tensor": (None, False),
}


def form(config: Config, method: Config) -> tuple[str, int]:
    """The format, and columns that a scale covers. `method`: the config's section.

    Raises:
        FormatError: the section asks for something else than this format.
    """
    for key, accepted in _ONE_WAY.items():
        value = method.values.get(key)
        if value not in accepted:
            raise config.bad(f"expected {key} {' or '.join(map(repr, accepted))} in "
                             f"quantization_config, found {show(value)}")  # fmt: skip
    return FORMAT, BLOCK


def as_planes(config: Config, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with scales under the names of their planes.

    Raises:
        FormatError: scales are there under both names.
    """
    return renamed(config, table, ".weight", {".weight_scale_inv": (".scales", {})})
