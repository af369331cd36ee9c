"""Runs a command again and again, killed (-9) at random moments, until it ends by itself."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence


def until_done(
    command: Sequence[str],
    *,
    kills: int,
    seed: int,
    start_over: Callable[[], None],
    after_kill: Callable[[], None] = lambda: None,
) -> None:
    """Kills the command at `kills` random moments of its work, then lets it end.

    Moments are drawn from the time that a whole run takes on this machine. A run that ended before
    its moment does not count: the next one starts over, from nothing.

    Args:
        start_over: Takes back all that the command has done.
        after_kill: Called after each kill, to look at what lies there.
    """
    random_moments = random.Random(seed)
    begun = time.monotonic()
    subprocess.run(command, capture_output=True, check=True, timeout=300)
    whole = time.monotonic() - begun
    start_over()
    while kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, errors = process.communicate(timeout=random_moments.uniform(0, whole))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills -= 1
            after_kill()
        else:
            assert process.returncode == 0, errors.decode()
            start_over()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
