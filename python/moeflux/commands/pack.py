"""`moeflux pack`: experts in aligned records, verified."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..errors import FormatError
from ..terminal import escape_controls
from . import folders, options, progress


def pack(
    source: Annotated[Path, typer.Argument(help="Checkpoint folder or GGUF file.")],
    target: Annotated[
        Optional[Path], typer.Argument(help="New folder, or one of an interrupted run.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Free each part of SOURCE once its copy is verified (Linux). Cannot be undone.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before --replace, as on a terminal.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check a packed folder's checksums instead.")
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a self-contained folder in which one read brings one expert.

    The same command again goes on where it stopped, whatever stopped it. Every file is read back
    from disk and compared before it counts.
    """
    from .. import packing

    if verify == (target is not None):
        raise FormatError("[pack] expected SOURCE and TARGET, or --verify and a packed folder")
    if replace and not yes and sys.stdin.isatty():
        typer.confirm(f"--replace empties the files of {source} as it goes on, which cannot be "
                      f"undone. Go on?", abort=True, err=True)  # fmt: skip
    try:
        with progress.bars() as bars:
            if target is None:
                packing.verify(source, bars)
            else:
                packing.pack(source, target, replace=replace, progress=bars)
    except KeyboardInterrupt:
        print("[interrupted: the same command goes on from here]", file=sys.stderr)
        raise
    finally:
        if target is not None:
            folders.remember(target)
    print(escape_controls(str(target or f"{source}: every checksum is right")))
