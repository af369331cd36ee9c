"""Text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Iterable


def begun(text: str, wanted: Iterable[str]) -> int:
    """Characters at the end of `text` that may begin one of `wanted`; fewer than all of it."""

    def of(one: str) -> int:
        longest = min(len(one) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text.endswith(one[:n])), 0)

    return max(map(of, wanted), default=0)
