"""Parts of a run, for several machines or processes."""

from __future__ import annotations

import argparse


def shard(text: str) -> tuple[int, int]:
    """I and N of I/N."""
    index, _, count = text.partition("/")
    if not 1 <= int(index) <= int(count):
        raise argparse.ArgumentTypeError(f"expected I/N with I of 1..N, found {text}")
    return int(index), int(count)
