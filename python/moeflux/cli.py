"""The command line: puts the commands together and turns errors into one sentence."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import __version__, errors
from .commands.bench import bench
from .commands.chat import chat
from .commands.doctor import doctor
from .commands.generate import generate
from .commands.info import info
from .commands.pack import pack
from .commands.plan import plan
from .commands.synth import synth
from .terminal import escape_controls

app = typer.Typer(
    help="Runs Mixture-of-Experts language models that are larger than memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        print(f"moeflux {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for command in (generate, chat, info, plan, pack, synth, bench, doctor):
    app.command()(command)


def main() -> None:
    """Runs the command line; an error of ours is one sentence and exit status 1."""
    try:
        app()
    except errors.MoefluxError as error:
        print(f"moeflux: {escape_controls(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
