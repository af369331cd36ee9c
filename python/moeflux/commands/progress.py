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
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as shown:

        def make(what: str, total: int) -> Report:
            task = shown.add_task(what, total=total)
            return lambda nbytes: shown.advance(task, nbytes)

        yield make
