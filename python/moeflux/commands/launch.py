"""`moeflux launch`: an agent on a local server."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from .. import errors
from ..terminal import note
from . import options
from .meter import waiting
from .serve import require_extra

if TYPE_CHECKING:
    from ..launch.server import Served


def launch(
    agent: Annotated[str, typer.Argument(help="claude, codex or opencode.")],
    arguments: Annotated[
        Optional[list[str]], typer.Argument(help="For the agent, behind --.")
    ] = None,
    model: options.Model = None,
    url: Annotated[
        Optional[str], typer.Option(help="A server that is there, whatever its model.")
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=1, max=65535, help="Of this machine: the server there, or a new one."),
    ] = 8080,
    memory: options.Memory = "auto",
    context: options.Context = 32768,
    chat_template: options.ChatTemplate = None,
    api_key: Annotated[
        Optional[str], typer.Option(help="Of the server; MOEFLUX_API_KEY's in its place.")
    ] = None,
    log: Annotated[Optional[Path], typer.Option(help="A file for what a new server says.")] = None,
) -> None:
    """Run an agent on a local model: claude, codex or opencode.

    It asks the server at --url, or the one that listens on --port, or one that is started for it
    and ends with it. Whatever listens there is trusted with the key and the talk. What would make
    the agent prefer a cloud (ANTHROPIC_API_KEY, OPENAI_API_KEY and the rest of the list in
    docs/server.md) is kept from it; other secrets of the environment (AWS_ACCESS_KEY_ID, HF_TOKEN)
    are not. The exit status is the agent's.
    """
    from ..launch.agents import arguments as told
    from ..launch.agents import environment
    from ..launch.run import Signals, installed

    known, program = installed(agent)
    key = api_key or os.environ.get("MOEFLUX_API_KEY", "")
    flags = ["--port", str(port), "--memory", memory, "--context", str(context)]
    flags += ["--model", model] if model is not None else []
    flags += ["--chat-template", chat_template] if chat_template is not None else []
    signals = Signals()
    with signals.taken(), contextlib.ExitStack() as ends:
        served = _there(url, port, key, model) or _started(ends, port, key, flags, log)
        note(f"[{agent} on {served.model} at {served.url}]")
        command = [program, *told(known, served), *(arguments or ())]
        status = signals.run(command, environment(known, served, os.environ))
    sys.exit(status)


def _there(url: str | None, port: int, key: str, model: str | None) -> Served | None:
    """The server that was named, or the one on the port; None where that has none."""
    from ..launch.server import base, find

    at = f"http://127.0.0.1:{port}" if url is None else base(url)
    served = find(at, key)
    if url is not None:
        if served is None:
            raise errors.SessionError(f"[launch] expected a server at {at}, found none")
    elif served is not None and model is not None and served.model != Path(model).name:
        raise errors.SessionError(
            f"[launch] the server at {at} serves {served.model}, not {model}: --url {at} takes it, "
            "--port starts another"
        )
    return served


def _started(
    ends: contextlib.ExitStack, port: int, key: str, flags: list[str], log: Path | None
) -> Served:
    from ..launch.server import started

    require_extra()
    with waiting("starting the server"):
        return ends.enter_context(started(f"http://127.0.0.1:{port}", key, flags, log))
