"""`moeflux top`: a server as it runs."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..errors import IoError, MoefluxError, SessionError
from ..terminal import escape_controls
from . import options
from .serve import require_extra

if TYPE_CHECKING:
    from rich.console import RenderableType

LEAST, MOST = 0.1, 3600.0  # seconds between two looks


def top(
    url: Annotated[
        str, typer.Argument(help="Of moeflux serve, here or elsewhere.")
    ] = "http://127.0.0.1:8080",
    api_key: Annotated[
        Optional[str], typer.Option(help="Of the server; MOEFLUX_API_KEY's in its place.")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look for one interval, print, and end.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Watch a server: tokens/s, hit rate, disk, waiting, memory, slots. Ctrl-C ends it.

    Rates are those of the last interval. What is asked is /metrics, /slots and /health.
    """
    require_extra()
    from rich.console import Console

    from ..launch.server import base
    from .watched import facts, look

    if not LEAST <= interval <= MOST:
        raise SessionError(f"[top] interval: expected {LEAST} to {MOST:g} seconds, found "
                           f"{interval:g}")  # fmt: skip
    if as_json and not once:
        raise SessionError("[top] expected --once with --json")
    console = Console()
    if not once and not console.is_terminal:
        raise IoError("[top] expected a terminal, or --once")
    at, key = base(url, "top"), api_key or os.environ.get("MOEFLUX_API_KEY", "")
    with contextlib.suppress(KeyboardInterrupt):
        before = look(at, key)
        if not once:
            _watch(console, at, key, interval, before)
        time.sleep(interval)
        found = facts(before, look(at, key))
        if as_json:
            print(json.dumps(found, indent=2))
        else:
            console.print(view(found, at))


def _watch(console: Any, at: str, key: str, interval: float, before: Any) -> None:
    """Until Ctrl-C. A server that goes away may come back."""
    from rich.live import Live
    from rich.text import Text

    from .watched import facts, look

    with Live(console=console, auto_refresh=False, transient=False) as live:
        live.update(view(facts(before, before), at), refresh=True)
        while True:
            time.sleep(interval)
            try:
                after = look(at, key)
            except MoefluxError as error:
                live.update(Text(escape_controls(str(error)), style="red"), refresh=True)
                continue
            live.update(view(facts(before, after), at), refresh=True)
            before = after


def view(found: dict[str, Any], at: str) -> RenderableType:
    """The same for people."""
    from rich.markup import escape
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    memory = found["memory_bytes"]
    busy = sum(found["slots"])
    table = Table.grid(padding=(0, 2))
    table.add_row("answers", _rate(found["tokens_per_second"], "tokens/s"))
    table.add_row("prompts", _rate(found["prompt_tokens_per_second"], "tokens/s"))
    table.add_row("hit rate", _share(found["hit_rate"]))
    table.add_row("disk", _rate(found["read_bytes_per_second"], "GB/s", 1e9))
    table.add_row("waiting for it", _share(found["waiting_share"]))
    budget = max(memory["budget"], 1)
    bar = ProgressBar(total=budget, completed=memory["live"], width=20)
    table.add_row("memory", bar, f"{_size(memory['live'])} of {_size(memory['budget'])}")
    table.add_row("  of sessions", _size(memory["sessions"]))
    table.add_row("  of prompts kept", _size(memory["snapshots"]))
    slots = "#" * min(busy, 20) + "." * min(len(found["slots"]) - busy, 20)
    table.add_row("slots", slots, f"{found['running']} run, {found['waiting']} wait")
    title = f"{found['model']} at {at}: {found['health']}"
    return Panel(table, title=escape(escape_controls(title)), title_align="left", expand=False)


def _rate(value: float | None, unit: str, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value / scale:,.2f} {unit}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.0f} MiB"
