"""`moeflux convert`: a checkpoint in MLX's affine codes, verified."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..terminal import escape_controls, note
from . import folders, options, progress


def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder or GGUF file.")],
    target: Annotated[Path, typer.Argument(help="New folder, or one of an interrupted run.")],
    bits: Annotated[int, typer.Option(help="Of a weight: 2, 3, 4, 5, 6 or 8.")] = 4,
    experts_bits: Annotated[
        Optional[int], typer.Option(help="Of an expert's weight.", show_default="as --bits")
    ] = None,
    group_size: Annotated[
        int, typer.Option(help="Weights that share a scale and a bias: 32, 64 or 128.")
    ] = 64,
    rules: Annotated[
        Optional[list[str]],
        typer.Option(
            "--rule",
            help="PATTERN=BITS, PATTERN=BITS:GROUP or PATTERN=plain: of the matrices whose names "
            "end so, as '*.shared_expert.*=8' or 'lm_head=6:32'; repeatable, the last one counts.",
        ),
    ] = None,
    dtype: Annotated[
        Optional[str],
        typer.Option(
            help="Of scales and biases: float32, float16 or bfloat16.",
            show_default="as the source's numbers, else bfloat16",
        ),
    ] = None,
    threads: options.Threads = None,
    verbose: options.Verbose = False,
) -> None:
    """Write a checkpoint of any format that runs, or of AWQ or GPTQ, in MLX's 2 to 8 bits.

    The same command again goes on where it stopped, whatever stopped it. Every file is read back
    from disk and compared before it counts. SOURCE stays as it is. Routers and vectors stay plain.
    """
    from .. import converting

    settings = converting.Settings(bits, experts_bits, group_size, tuple(rules or ()), dtype)
    try:
        with progress.bars() as bars:
            converting.convert(source, target, settings, threads=threads, progress=bars, tell=_tell)
    except KeyboardInterrupt:
        print("[interrupted: the same command goes on from here]", file=sys.stderr)
        raise
    finally:
        folders.remember(target)
    print(escape_controls(str(target)))


def _tell(line: str) -> None:
    note(f"[{escape_controls(line)}]")
