"""Progress of long work, on standard error: bytes, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int], None]


@contextmanager
def bars() -> Iterator[Callable[[str, int], Report]]:
    """A maker of bars: called with what is done and its bytes, it returns a callback for bytes."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),  # of 80 columns two stay free: ^C in the last one wraps
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    shown = progress.Progress(*columns, console=Console(stderr=True))

    def make(what: str, total: int) -> Report:
        task = shown.add_task(what, total=total)

        def report(nbytes: int) -> None:
            shown.start()  # not before: what is refused at once shows no bar, and no empty line
            shown.advance(task, nbytes)

        return report

    try:
        yield make
    finally:
        if shown.live.is_started:
            shown.stop()
