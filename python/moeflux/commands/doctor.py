"""`moeflux doctor`: what this machine has, whether it computes right, how fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from ..terminal import escape_controls, show
from . import options


def doctor(
    device: Annotated[
        Optional[list[str]],
        typer.Option(help="Examine this one (metal, host); repeatable. All without it."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check only; do not time the device in detail.")
    ] = False,
    disk: Annotated[
        Optional[Path],
        typer.Option(help="A folder on the disk to measure; the hub's cache without it."),
    ] = None,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Check every kernel on every device and measure this machine; a report for an issue.

    Exit status 1 when something is wrong.
    """
    from rich.console import Console
    from rich.markup import escape

    from ..device import KINDS
    from ..doctor import examine

    with Console(stderr=True).status("starting") as status:
        report = examine(
            device or KINDS,
            disk=disk,
            facts_too=not quick,
            note=lambda text: status.update(escape(escape_controls(text))),
        )
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        show(escape_controls(report.text()))
    if report.problems:
        raise typer.Exit(1)
