"""`moeflux synth`: checkpoints of real shapes with random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..synth import Recipe, synthesize
from ..terminal import escape_controls
from . import folders, options, progress


def synth(
    folder: Annotated[Path, typer.Argument(help="New folder, or one of an interrupted run.")],
    shape: Annotated[str, typer.Option(help="The name of a model; any other lists them all.")] = (
        "qwen3-30b-a3b"
    ),
    layers: Annotated[
        Optional[int],
        typer.Option(help="Keep only so many layers."),
    ] = None,
    settings: Annotated[
        Optional[list[str]],
        typer.Option("--set", help="Change a field: num_experts=64; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random values.")] = 0,
    skew: Annotated[
        float,
        typer.Option(help="How unequally experts are chosen: 0 uniform, 1 close to Zipf's law."),
    ] = 0.0,
    gguf: Annotated[
        bool, typer.Option(help="Also write the same weights for llama.cpp (qwen3_moe shapes).")
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a checkpoint of a real model's shape with random 4-bit weights.

    The same command again goes on where it stopped. Sizes and access patterns are those of the
    real model; the text it writes is noise.
    """
    recipe = Recipe(shape, layers, tuple(settings or ()), seed, skew)
    try:
        with progress.bars() as bars:
            synthesize(folder, recipe, with_gguf=gguf, progress=bars)
    except KeyboardInterrupt:
        print("[interrupted: the same command goes on from here]", file=sys.stderr)
        raise
    finally:
        folders.remember(folder)
    print(escape_controls(str(folder)))
