"""Modules that are imported where they are used.

Each process of pytest-xdist collects every file, and clients of the APIs take seconds to import.
"""

import importlib
from typing import Any


class Later:
    """Stands for a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks at all that a file has
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
