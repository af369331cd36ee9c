"""Cuts work at random moments or after each of its steps, again and again, until it ends."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from support.commands import run_moeflux

# One moment is as good as another: 20 in .ci/full.
KILLS = int(os.environ.get("MOEFLUX_KILLS", "2"))


def until_done(
    run: Callable[[float], Any],
    *,
    seed: int,
    start_over: Callable[[], None],
    after_kill: Callable[[], None] = lambda: None,
) -> None:
    """Kills a command at random moments of its work, KILLS times, then lets it end.

    Moments are drawn from the time that a whole run takes on this machine. A run that ended before
    its moment does not count: the next one starts over, from nothing.

    Args:
        run: Runs the command, and kills it after so many seconds (support/commands.py).
        start_over: Takes back all that the command has done.
        after_kill: Called after each kill, to look at what lies there.
    """

    def ends(seconds: float) -> None:
        done = run(seconds)
        assert done.returncode == 0, done.stderr

    random_moments = random.Random(seed)
    kills = KILLS
    run_moeflux("--version")  # the server of processes is there
    begun = time.monotonic()
    ends(300)
    whole = time.monotonic() - begun
    start_over()
    while kills:
        try:
            ends(random_moments.uniform(0, whole))
        except subprocess.TimeoutExpired:
            kills -= 1
            after_kill()
        else:
            start_over()
    ends(300)


class Cut(BaseException):
    """What cuts a run in process."""


def after_each(
    run: Callable[[], object], monkeypatch: Any, holders: Sequence[object], name: str
) -> int:
    """Runs until a run ends, without luck: each is cut after one more call of a function.

    Args:
        run: goes on where the last one was cut.
        monkeypatch: pytest's.
        holders: modules that have the function.
        name: its name there.

    Returns:
        How many runs there were.
    """
    original = getattr(holders[0], name)
    for cut_at in range(1, 40):
        calls = 0

        def cut(*args: Any, _at: int = cut_at, **kwargs: Any) -> Any:
            nonlocal calls
            result = original(*args, **kwargs)
            calls += 1
            if calls == _at:
                raise Cut
            return result

        with monkeypatch.context() as patch:
            for holder in holders:
                patch.setattr(holder, name, cut)
            try:
                run()
            except Cut:
                continue
        return cut_at
    raise AssertionError(f"cut after 39 calls of {name}, it goes on")
