"""The command line: puts the commands together and turns errors into one sentence."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import Annotated

import typer

from . import errors, log
from ._version import __version__
from .commands.batch import batch
from .commands.bench import bench
from .commands.chat import chat
from .commands.convert import convert
from .commands.doctor import doctor
from .commands.generate import generate
from .commands.info import info
from .commands.launch import launch
from .commands.models import app as models
from .commands.pack import pack
from .commands.plan import plan
from .commands.serve import serve
from .commands.synth import synth
from .commands.top import top
from .commands.tune import tune
from .memory import as_size
from .terminal import escape_controls

app = typer.Typer(
    help="Runs Mixture-of-Experts language models that are larger than memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help cuts long options short and keeps a docstring's line ends
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


COMMANDS = (
    *(generate, chat, serve, launch, batch, top),
    *(info, plan, tune, pack, convert, synth, bench, doctor),
)
for command in COMMANDS:
    app.command(short_help=(command.__doc__ or "").partition("\n")[0])(command)
app.add_typer(models, name="models")


def main() -> None:
    """Runs the command line; an error is one sentence and exit status 1."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the caller closed it
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is shown escaped
            stream.reconfigure(errors="backslashreplace")
    log.to_stderr(log.lengths)
    try:
        try:
            app()
        finally:
            print(end="", flush=True)  # a full disk is told here, not while Python ends
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print(file=sys.stderr)  # the shell's prompt on a line of its own
        raise
    except BrokenPipeError:
        _forget_output()
    except Exception as error:
        if isinstance(error, OSError):
            _forget_output()
        log.logger.debug("error", exc_info=True)
        print(f"moeflux: {escape_controls(_sentence(error))}", file=sys.stderr)
    sys.exit(1)


# Arguments of `load` in messages, and bytes in those about memory: here they are options and sizes.
_OPTION = re.compile(r"(?<![\w/-])(memory|context|threads|precision|kv|device|max_tokens)= ?")
_BYTES = re.compile(r"\b(\d{4,})\b(?! expert)(?: bytes)?")
INTERRUPTED = 130  # typer makes it of a KeyboardInterrupt


def _sentence(error: Exception) -> str:
    if isinstance(error, errors.MemoryBudgetError):
        return _OPTION.sub(r"--\1 ", _BYTES.sub(_size, str(error)))
    if isinstance(error, errors.MoefluxError):
        return _OPTION.sub(r"--\1 ", str(error))
    if isinstance(error, OSError):
        where = "" if error.filename is None else f" ({error.filename})"
        return f"[cli] cannot go on: {error.strerror or error}{where}"
    return f"[cli] {type(error).__name__}: {error}; a defect of moeflux: --verbose shows where"


def _size(found: re.Match[str]) -> str:
    """Bytes as --memory takes them."""
    return as_size(int(found[1]))


def _forget_output() -> None:
    """Text that could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
