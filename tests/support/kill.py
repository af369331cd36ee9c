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
    longest: float,
    after_kill: Callable[[], None] = lambda: None,
) -> int:
    """Kills the command `kills` times after a random part of `longest` seconds, then lets it end.

    Returns:
        How many of the kills met it running (the rest came after it had ended).
    """
    random_moments, met = random.Random(seed), 0
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random_moments.uniform(0, longest))
        met += process.poll() is None
        process.kill()
        process.wait()
        after_kill()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return met
