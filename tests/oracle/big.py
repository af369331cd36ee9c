"""Checkpoints of hundreds of megabytes, fast: random 4-bit codes, shared blocks of them.

For budget and cgroup tests, where only sizes and access matter. The model runs and its logits are
finite; no golden exists for it. `Reference` reads it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import values
from .families import FAMILIES, stored_config, text_config
from .layout import hub_shapes
from .safetensors_file import Stored, encode
from .writer import write_checkpoint

_BLOCK_WORDS = 1 << 20


def build_big(
    path: Path | str, family: str = "qwen3_next", seed: int = 0, shards: int = 4, **overrides: Any
) -> Path:
    """Write an `mlx-q4` checkpoint (group 64, gates too); sizes by `overrides`.

    One expert holds 3 * hidden_size * moe_intermediate_size * 0.5625 bytes. Widths must be
    multiples of 64. Every expert differs from the others in its codes.
    """
    spec, text = FAMILIES[family], text_config(family, overrides)
    block = values.words(seed, "big", _BLOCK_WORDS // 2).view(np.uint32)
    shapes = hub_shapes(family, text | {"num_experts": 1})
    stored: dict[str, Stored] = {}
    for number, (hub_name, shape) in enumerate(shapes.items()):
        name, count = hub_name, ()
        if name.startswith(spec.hub_prefix):
            name = spec.mlx_prefix + name[len(spec.hub_prefix) :]
        elif name.startswith(spec.hub_head):
            name = spec.mlx_head + name[len(spec.hub_head) :]
        if ".experts.0." in name:
            name, count = name.replace(".experts.0.", ".switch_mlp."), (text["num_experts"],)
        if name.endswith("mlp.gate.weight"):
            shape = (text["num_experts"], *shape[1:])
        if len(shape) == 1 or "conv1d" in name:
            value = values.tensor(
                seed,
                hub_name,
                shape,
                zero_centred_norms=False,
                tied=False,
                wide=False,
                branch_gain=1.0,
            )
            stored[name] = encode(
                value.reshape(value.shape[0], -1, 1) if value.ndim > 1 else value, "BF16"
            )
            continue
        rows = (*count, *shape[:-1])
        size = int(np.prod(rows)) * shape[-1] // 8
        stored[name] = Stored(
            "U32", np.resize(np.roll(block, 977 * number), (*rows, shape[-1] // 8))
        )
        assert stored[name].data.size == size
        # Codes 0..15 about their mean 7.5, standard deviation 4.6: unit gain per row.
        scale = np.full((*rows, shape[-1] // 64), shape[-1] ** -0.5 / 4.6, np.float32)
        module = name.removesuffix(".weight")
        stored[f"{module}.scales"] = encode(scale, "BF16")
        stored[f"{module}.biases"] = encode(-7.5 * scale, "BF16")
    config = stored_config(family, text, "bfloat16", "hub")
    config["quantization"] = {"group_size": 64, "bits": 4, "mode": "affine"}
    config["quantization_config"] = config["quantization"]
    return write_checkpoint(Path(path), config, stored, "mlx", shards)
