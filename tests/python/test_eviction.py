"""benchmarks/eviction.py: hand-made traces, and a search through all that a cache could do."""

import importlib.util
import itertools
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("eviction", ROOT / "benchmarks" / "eviction.py")
eviction = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(eviction)


def one_by_one(*experts):
    """A layer, an expert a step."""
    return eviction.requests(np.array(experts).reshape(-1, 1, 1), 100)


@pytest.mark.parametrize(
    ("policy", "experts", "slots", "misses"),
    [
        ("lru", (1, 2, 3, 1, 2, 3), 2, [1, 1, 1, 1, 1, 1]),  # a cycle: the worst for recency
        ("belady", (1, 2, 3, 1, 2, 3), 2, [1, 1, 1, 0, 0, 1]),
        ("lru", (1, 2, 1, 3, 1, 2), 2, [1, 1, 0, 1, 0, 1]),
        ("belady", (1, 2, 1, 3, 1, 2), 2, [1, 1, 0, 1, 0, 0]),  # 3 is read and not kept
        ("lru", (1, 2, 3, 1, 2, 3), 3, [1, 1, 1, 0, 0, 0]),
        ("store", (1, 2, 3, 1, 2, 3), 3, [1, 1, 1, 0, 0, 0]),
        # 1 has been used six times: some five ticks of worth; 3 pushes 2 out.
        ("store", (1, 1, 1, 1, 1, 1, 2, 3, 1), 2, [1, 0, 0, 0, 0, 0, 1, 1, 0]),
        ("lru", (1, 1, 1, 1, 1, 1, 2, 3, 1), 2, [1, 0, 0, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_traces_made_by_hand(policy, experts, slots, misses):
    assert eviction.POLICIES[policy](one_by_one(*experts), slots) == misses


def by_formula(asked, slots):
    """The store's rule (benchmarks/notebook.md) in float64, with a list that is searched."""
    worth, last, priority, clock, misses = {}, {}, {}, 0, []
    for step in asked:
        misses.append(0)
        keys = [key for layer in step for key in layer]
        for key in sorted(keys, key=lambda key: key not in priority):
            clock += 1
            if key not in priority:
                misses[-1] += 1
                if len(priority) == slots:  # of equals the highest key goes
                    del priority[min(priority, key=lambda held: (priority[held], -held))]
            n = len(priority) + (key not in priority)
            age = clock - last.get(key, 0)
            worth[key] = worth.get(key, 0) * 2 ** (-age / (16 * n)) + 1
            last[key] = clock
            priority[key] = max(priority.get(key, 0), clock + int(worth[key] * n))
    return misses


@pytest.mark.parametrize("slots", [5, 12, 40])
def test_the_store_counts_as_its_formula_does(slots):
    trace = next(eviction.skewed(2, 150, 1, 64, 4, 0.7))
    asked = eviction.requests(trace, 64)
    assert eviction.store(asked, slots) == by_formula(asked, slots)


def test_what_is_in_memory_is_used_before_it_can_be_pushed_out():
    asked = [[[1, 2]], [[3, 2]]]  # in this order 3 would push out 1, in memory or not; 2 is a hit
    assert eviction.lru(asked, 2) == [2, 1]
    asked = [[[1, 2]], [[3, 1]]]  # 1 is the oldest, and asked for behind 3
    assert [eviction.POLICIES[name](asked, 2) for name in ("lru", "store", "belady")] == [
        [2, 1]
    ] * 3


def least(trace, slots):
    """Misses of the best of all choices, tried one by one; an expert may be read and not kept."""

    @cache
    def rest(at, held):
        if at == len(trace):
            return 0
        if trace[at] in held:
            return rest(at + 1, held)
        kept = held | {trace[at]}
        choices = [kept] if len(kept) <= slots else [kept - {gone} for gone in kept]
        return 1 + min(rest(at + 1, choice) for choice in choices)

    return rest(0, frozenset())


def test_belady_is_the_least_of_all_choices():
    numbers = np.random.default_rng(0)
    for _ in range(200):
        trace = tuple(int(x) for x in numbers.integers(0, 5, 12))
        for slots in (1, 2, 3):
            assert sum(eviction.belady(one_by_one(*trace), slots)) == least(trace, slots)


def test_belady_misses_no_more_than_the_others():
    for skew, width in itertools.product((0.0, 1.0), (1, 4)):
        traces = list(itertools.islice(eviction.skewed(3, 60, 3, 16, 4, skew), width))
        asked = eviction.requests(eviction.union(traces), 16)
        for slots in (12, 24, 48):
            counts = {name: sum(run(asked, slots)) for name, run in eviction.POLICIES.items()}
            assert counts["belady"] <= min(counts["lru"], counts["store"])
            if slots == 48:  # everything fits: each expert is read once
                assert len(set(counts.values())) == 1


def test_lru_counts_as_an_independent_one_does():
    trace = next(eviction.skewed(1, 80, 4, 16, 3, 0.5))
    held, expected = OrderedDict(), []
    for step in trace:
        expected.append(0)
        for layer, experts in enumerate(step):
            asked = [(layer, int(e)) for e in experts]
            for key in sorted(asked, key=lambda key: key not in held):
                expected[-1] += key not in held
                held[key] = held.pop(key, None)
                if len(held) > 20:
                    held.popitem(last=False)
    assert eviction.lru(eviction.requests(trace, 16), 20) == expected


def test_sequences_that_step_together_use_the_union():
    a, b = np.array([[[3, 1]], [[0, 2]]]), np.array([[[1, 2]], [[2, 0]]])
    asked = eviction.requests(eviction.union([a, b]), 4)
    assert [[sorted(layer) for layer in step] for step in asked] == [[[1, 2, 3]], [[0, 2]]]


def test_skew_prefers_experts_by_layer():
    even = next(eviction.skewed(0, 400, 2, 16, 2, 0.0))
    odd = next(eviction.skewed(0, 400, 2, 16, 2, 2.0))

    def most(trace, layer):
        return np.bincount(trace[:, layer].ravel(), minlength=16)

    assert most(even, 0).max() < 90 < 200 < most(odd, 0).max()
    assert most(odd, 0).argmax() != most(odd, 1).argmax()
