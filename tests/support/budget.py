"""Budgets of models."""

import re

import moeflux


def smallest_budget(path=None, **options):
    """Follows load()'s refusals, each of which names a budget that gets further."""
    memory = 4096 * 64
    for _ in range(500):
        try:
            moeflux.load(path, memory=memory, **options)
        except moeflux.MemoryBudgetError as error:
            named = re.search(r"at least (\d+)|memory=(\d+) would do", str(error))
            assert named, str(error)
            memory = int(named[1] or named[2])
        else:
            return memory
    raise AssertionError("no refusal named a budget that does")
