"""Floats of 8 bits, and scales of blocks of 128 x 128 or of whole matrices ("fp8").

A matrix X [out, columns] is `X.weight`, F8_E4M3, and `X.weight_scale_inv`, F32 or BF16: a number a
block [ceil(out / 128), ceil(columns / 128)] (DeepSeek-V3's checkpoints, Qwen's, MiniMax'), or one
number (Mistral's); value = weight * scale. Matrices without it are plain. Experts in one tensor X
have X_scale_inv [n_experts, 1, 1].

Activations are not quantised here, as the scheme "dynamic" has programs do that multiply by floats
of 8 bits, and "static", whose scales are left alone. Source: the class FineGrainedFP8Config of
transformers and what dequantises there.
"""

from __future__ import annotations

from ..arguments import show
from ..formats import TABLE
from ..safetensors_header import Tensor
from .config import Config
from .quantised import as_planes as renamed
from .quantised import one_each

METHOD = "fp8"
BLOCK = 128
OF_TENSOR = "fp8_tensor", TABLE["fp8_tensor"].groups[0]
# Fields of the section, and the values that mean what the formats are.
_ONE_WAY = {
    "fmt": (None, "e4m3", "float8_e4m3fn"),
    "weight_block_size": ([BLOCK, BLOCK], None),
    "weight_per_tensor": (None, False),
    "act_per_tensor": (None, False),
}
_SCHEMES = {"fp8": (None, "dynamic"), "fp8_tensor": (None, "dynamic", "static")}


def form(config: Config, method: Config) -> tuple[str, int]:
    """The format, and columns that a scale covers. `method`: the config's section.

    Raises:
        FormatError: the section asks for something else than these formats.
    """
    if "weight_block_size" not in method.values:
        raise config.bad(f"expected weight_block_size [{BLOCK}, {BLOCK}] or null in "
                         "quantization_config, found none")  # fmt: skip
    form = OF_TENSOR if method.values["weight_block_size"] is None else ("fp8", BLOCK)
    for key, accepted in (_ONE_WAY | {"activation_scheme": _SCHEMES[form[0]]}).items():
        value = method.values.get(key)
        if value not in accepted:
            raise config.bad(f"expected {key} {' or '.join(map(repr, accepted))} in "
                             f"quantization_config, found {show(value)}")  # fmt: skip
    return form


def as_planes(config: Config, table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with scales under the names of their planes.

    Raises:
        FormatError: scales are there under both names.
    """
    found = renamed(config, table, ".weight", {
        ".weight_scale_inv": (".scales", {}),
        ".activation_scale": ("", {}),
    })  # fmt: skip
    stacks = renamed(
        config, found, "", {"_scale_inv": (".scales", {}), "_activation_scale": ("", {})}
    )
    return one_each(stacks)
