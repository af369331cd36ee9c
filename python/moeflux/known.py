"""Checkpoints that are known by a short name, with the numbers that a plan needs before a download.

A table of data, `known.json`, written by tools/docs/checkpoints.py; the table in docs/models.md has
the same rows.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_suffix(".json")


class Known(NamedTuple):
    """A row.

    Attributes:
        name: of the checkpoints that share these numbers.
        family: a config's `model_type`.
        form: of the weights, such as "4 bits".
        parameters: of the text part.
        active: of them, those that a token goes through.
        file_bytes: of the download.
        hub: hub ids by short name.
        sizes: what `planning.plan.measure` says of it, by field.
    """

    name: str
    family: str
    form: str
    parameters: int
    active: int
    file_bytes: int
    hub: dict[str, str]
    sizes: dict[str, Any]


@cache
def checkpoints() -> tuple[Known, ...]:
    """All rows, as the table has them."""
    return tuple(Known(**row) for row in json.loads(FILE.read_text(encoding="utf-8")))


def hub_id(name: str) -> str | None:
    """What a short name stands for; None: it is none. Capital letters do not matter."""
    names = {short: full for row in checkpoints() for short, full in row.hub.items()}
    return names.get(name.lower())
