"""What a conversion is going to write, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .pieces import entries
from .plan import Item
from .settings import Settings


def lines(items: Sequence[Item], settings: Settings) -> Iterator[str]:
    """Its size, and matrices that stay plain although nobody has asked for it."""
    nbytes = sum(entry.nbytes for item in items for entry in entries(item))
    numbers = sum(math.prod(item.shape) * (item.rows.shape.columns if item.is_matrix else 1)
                  for item in items)  # fmt: skip
    yield f"{nbytes / 1e9:,.2f} GB, {8 * nbytes / numbers:.2f} bits a number"
    plain = [item.name for item in items if item.is_ungrouped]
    if plain:
        more = f" and {len(plain) - 1} more" if len(plain) > 1 else ""
        yield (f"plain, since columns are no whole groups of {settings.group}: {plain[0]}{more}; "
               "--group-size has others")  # fmt: skip
