"""Progress of long work, on standard error: how much of it, rate, time left."""

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


@contextmanager
def rows(total: int, done: int) -> Iterator[Callable[[int, int], None]]:
    """A bar of requests, of which some are answered already.

    What it gives is called with the status and the tokens of each answer.
    """
    import time

    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[told]}"),
        progress.TimeRemainingColumn(),
    )
    failed = tokens = 0
    begin = time.monotonic()
    with progress.Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total, completed=done, told="")

        def report(status: int, count: int) -> None:
            nonlocal failed, tokens
            failed, tokens = failed + (status != 200), tokens + count
            rate = tokens / max(time.monotonic() - begin, 1e-3)
            told = f"{rate:.1f} tok/s" + f", {failed} with an error" * bool(failed)
            shown.update(task, advance=1, told=told)

        yield report
