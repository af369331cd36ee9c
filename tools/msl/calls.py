"""Which functions call which, by the names that their bodies mention."""

from __future__ import annotations

from collections.abc import Iterable

from .model import Function


class Calls:
    """The call graph of a library; overloads of one name count as one function."""

    def __init__(self, functions: Iterable[Function]):
        self.names: dict[str, set[str]] = {}  # everything that a function's bodies mention
        for function in functions:
            self.names.setdefault(function.name, set()).update(function.names)

    def callees(self, name: str) -> set[str]:
        """The functions that `name` calls, directly or not; `name` only if it is recursive."""
        reached: set[str] = set()
        todo = [n for n in self.names[name] if n in self.names]
        while todo:
            current = todo.pop()
            if current not in reached:
                reached.add(current)
                todo += [n for n in self.names[current] if n in self.names]
        return reached

    def mentioned(self, name: str) -> set[str]:
        """Every name that `name` or what it calls mentions."""
        return set().union(*(self.names[n] for n in {name} | self.callees(name)))
