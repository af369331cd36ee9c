"""Checkpoints of real shapes with random 4-bit weights, and the same weights as GGUF.

For benchmarks, plans and tests of models that nobody wants to download: sizes, layouts and access
patterns are those of the real thing, the text is noise. Everything depends on the recipe alone
(shape, seed, skew), byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..durable import claim, write_json
from ..errors import FormatError, IoError
from ..lookalikes import CLAIMS
from . import gguf, layout, mlx, tokens
from .mlx import SHARD_BYTES, Report
from .shapes import EOS_ID, SHAPES, shape
from .weights import Pool

__all__ = ["SHAPES", "Recipe", "synthesize"]

VERSION = 1  # of the bytes that a recipe gives; one more whenever they change


@dataclass(frozen=True)
class Recipe:
    """What makes a synthetic model: equal recipes give equal bytes.

    Attributes:
        shape: a key of SHAPES.
        layers: keep only so many layers; None keeps all.
        settings: "key=JSON" changes of the shape's config.
        seed: of all random values.
        skew: of routing; 0 is uniform, 1 close to Zipf's law (see synth/router.py).
        shard_bytes: of the safetensors files.
    """

    shape: str = "small"
    layers: int | None = None
    settings: Sequence[str] = field(default_factory=tuple)
    seed: int = 0
    skew: float = 0.0
    shard_bytes: int = SHARD_BYTES


def synthesize(
    folder: Path,
    recipe: Recipe,
    *,
    with_gguf: bool = False,
    progress: Callable[[str, int], Report] = lambda what, total: lambda done: None,
) -> Path:
    """Writes the checkpoint into `folder`; goes on where an interrupted run stopped.

    Args:
        folder: to be created, or left by an earlier run of the same recipe.
        recipe: what to write.
        with_gguf: also `model-q4_0.gguf` with the same weights (qwen3_moe shapes).
        progress: asked for a callback for each file format; it is told about written bytes.

    Returns:
        The folder.

    Raises:
        FormatError: a recipe that makes no model, or a folder that holds another one.
        IoError: the disk has no room for it, or writing failed.
    """
    if not 0 <= recipe.skew <= 4:
        raise FormatError(f"[synth] expected a skew in 0..4, found {recipe.skew}")
    config = shape(recipe.shape, recipe.layers, recipe.settings)
    model = layout.items(config, recipe.seed, recipe.skew)
    if with_gguf:
        gguf.check(config)
    try:
        claim(folder, CLAIMS["synth"], _identity(recipe), "synth", "model")
        pool = Pool(recipe.seed)
        mlx.write(folder, model, pool, recipe.seed, recipe.shard_bytes,
                  progress("safetensors", mlx.data_bytes(model)))  # fmt: skip
        write_json(folder / "tokenizer.json", tokens.tokenizer_json(config["vocab_size"]))
        context = config["max_position_embeddings"]
        write_json(folder / "tokenizer_config.json", tokens.tokenizer_config(context))
        write_json(folder / "generation_config.json", {"eos_token_id": EOS_ID})
        if with_gguf:
            gguf.write(folder, config, model, pool, recipe.seed,
                       progress("GGUF", gguf.data_bytes(model)))  # fmt: skip
        # Last: a folder with a config is a whole checkpoint.
        write_json(folder / "config.json", layout.mlx_config(config, model), indent=1)
    except OSError as error:
        if isinstance(error, IoError):
            raise
        raise IoError(f"[synth] cannot write: {error.strerror} ({folder})") from error
    return folder


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What makes two runs write the same bytes, as JSON has it."""
    return {"version": VERSION} | asdict(recipe) | {"settings": list(recipe.settings)}
