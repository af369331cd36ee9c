"""Budgets of models."""

import re

import moeflux


def named(error):
    """The budget that a refusal names."""
    found = re.search(r"at least (\d+)|memory=(\d+) would do", str(error))
    assert found, str(error)
    return int(found[1] or found[2])


def smallest_budget(path=None, **options):
    """Follows load()'s refusals, each of which names a budget that gets further."""
    memory = 4096 * 64
    for _ in range(500):
        try:
            moeflux.load(path, memory=memory, **options)
        except moeflux.MemoryBudgetError as error:
            memory = named(error)
        else:
            return memory
    raise AssertionError("no refusal named a budget that does")
