"""Work of several threads whose results are taken in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """`work` of each item, in the items' order; `2 * threads` are begun before they are asked for.

    Those that have not begun are given up when nobody asks for more.
    """
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        window: deque[Future[Result]] = deque()
        try:
            window.extend(pool.submit(work, each) for each in itertools.islice(left, 2 * threads))
            while window:
                yield window.popleft().result()
                window.extend(pool.submit(work, each) for each in itertools.islice(left, 1))
        finally:
            for future in window:
                future.cancel()
