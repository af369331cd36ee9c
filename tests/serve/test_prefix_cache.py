"""The tree of snapshots: what is found, what is kept, what goes first."""

import random
from dataclasses import dataclass

import pytest

from moeflux.serve.prefix_cache import Kept, PrefixCache


@dataclass(frozen=True)
class Snapshot:
    name: str
    nbytes: int = 10


def Fake(name, nbytes=10, extents=None):
    return Kept(Snapshot(name, nbytes), extents or {})


def filled(*paths, max_bytes=1000, **options):
    cache = PrefixCache(max_bytes, **options)
    for path in paths:
        cache.insert(list(map(ord, path)), Fake(path))
    return cache


def found(cache, text, **options):
    match = cache.find(list(map(ord, text)), **options)
    return match.kept and match.kept.snapshot.name, match.position, match.known


FINDS = [
    ("abcdef", ("abcd", 4, 4)),
    ("abcd", ("ab", 2, 4)),  # a token is left to compute
    ("abxyz", ("ab", 2, 2)),
    ("abcx", ("ab", 2, 3)),
    ("a", (None, 0, 1)),
    ("xyz", (None, 0, 0)),
    ("abqrst", ("abqrs", 5, 5)),
    ("", (None, 0, 0)),
]


@pytest.mark.parametrize(("text", "expected"), FINDS)
def test_the_longest_prefix_that_leaves_a_token_is_found(text, expected):
    assert found(filled("abcd", "ab", "abqrs"), text) == expected


def test_finds_agree_with_a_plain_search():
    rng = random.Random(3)
    cache, held = PrefixCache(1 << 30), {}
    for _ in range(300):
        ids = [rng.randrange(3) for _ in range(rng.randrange(1, 12))]
        if cache.insert(ids, Fake(str(ids))):
            held.setdefault(tuple(ids), str(ids))
        asked = [rng.randrange(3) for _ in range(rng.randrange(14))]
        prefixes = [p for p in held if len(p) < len(asked) and tuple(asked[: len(p)]) == p]
        best = max(prefixes, key=len, default=())
        common = max(
            (next((i for i, (a, b) in enumerate(zip(p, asked, strict=False)) if a != b),
                  min(len(p), len(asked))) for p in held), default=0,
        )  # fmt: skip
        match = cache.find(asked)
        assert (match.position, match.known) == (len(best), common)
        assert (match.kept.snapshot.name if match.kept else None) == held.get(best)
    assert len(cache) == len(held) and cache.nbytes == 10 * len(held)


def test_scopes_never_meet():
    cache = PrefixCache(1000)
    cache.insert([1, 2, 3], Fake("mine"), "me")
    assert cache.find([1, 2, 3, 4], "you") == cache.find([9], "you")
    assert cache.find([1, 2, 3, 4], "me").position == 3


def test_bytes_stay_within_the_bound():
    cache = PrefixCache(25)
    for i in range(9):
        cache.insert([i, 1, 2], Fake(str(i)), now=float(i))
        assert cache.nbytes <= 25
    assert len(cache) == 2
    assert not cache.insert([99], Fake("large", 26))
    assert not filled(max_bytes=0).insert([1], Fake("one", 1))


def test_a_shared_extent_counts_once_and_is_free_with_its_last_owner():
    cache, one, other = PrefixCache(1000), object(), object()
    cache.insert([1], Fake("a", 1, {one: 100}))
    cache.insert([1, 2], Fake("b", 2, {one: 100, other: 100}))
    assert cache.nbytes == 203
    assert cache.evict(1) == 102  # what the other one holds is not free
    assert cache.evict(1) == 101
    assert cache.nbytes == 0 and len(cache) == 0


@pytest.mark.parametrize(("hits", "stays"), [(0, "a system prompt"), (9, "short")])
def test_what_saves_most_tokens_stays(hits, stays):
    cache = filled("short", "a system prompt")
    for _ in range(hits):
        assert found(cache, "short one", now=1.0)[1] == 5
    cache.evict(1, now=1.0)
    assert [found(cache, f"{text}!")[1] for text in ("short", "a system prompt")] == [
        len(text) * (text == stays) for text in ("short", "a system prompt")
    ]


def test_only_the_tokens_behind_a_shorter_snapshot_count():
    cache = filled("0123456789", "0123456789ab", "another")
    cache.evict(1, now=0.0)
    assert found(cache, "0123456789abc") == ("0123456789", 10, 12)


def test_hits_are_forgotten():
    cache = filled("old and hit", "new, no hit")
    found(cache, "old and hit!", now=0.0)
    cache.find(list(map(ord, "new, no hit")), now=20 * 3600.0)  # used, though not restored
    cache.evict(1, now=20 * 3600.0)
    assert found(cache, "old and hit!")[1] == 0


def test_a_path_is_known_when_its_snapshot_is_gone():
    cache = filled("abcdef")
    assert cache.evict(10) == 10 and cache.nbytes == 0
    assert found(cache, "abcxyz") == (None, 0, 3)


def test_nodes_are_not_walked_for_each_step_or_victim():
    cache, walks = PrefixCache(10_000, max_path_tokens=400), []
    nodes = cache._nodes
    cache._nodes = lambda: walks.append(1) or nodes()
    for i in range(100):
        cache.insert([i] * 4, Fake(str(i)))
    assert len(cache) == 100 and cache.evict(100) == 100 and not walks
    for i in range(100, 200):
        cache.insert([i] * 4, Fake(str(i)))
    assert 0 < len(walks) <= 10 and cache._path_tokens <= 400
    assert len(cache) == cache.nbytes // 10


def test_paths_are_bounded():
    cache = filled("abcdef", max_path_tokens=20)
    for i in range(50):
        cache.insert([1000 + i] * 4, Fake(str(i)), now=1.0 + i)
    assert cache._path_tokens <= 20 and cache.nbytes == 10 * len(cache) > 0
    assert found(cache, "abc") == (None, 0, 0)


def test_who_goes_is_told_with_its_tokens_and_place():
    cache, told = filled("abcd", "abcdef", "abcdxy"), []
    cache.insert([1, 2], Fake("of another"), "scope")
    best = cache.best_first(0.0)
    assert {d.kept.snapshot.name: (d.is_end, d.branches) for d in best} == {
        "abcd": (False, True), "abcdef": (True, False), "abcdxy": (True, False),
        "of another": (True, False),
    }  # fmt: skip
    assert best[0].kept.snapshot.name == "abcd"  # saves twice as much

    def on_drop(d):
        told.append((d.scope, d.tokens.tolist(), d.kept.snapshot.name))

    assert cache.evict(1000, on_drop=on_drop) == 40
    assert sorted(told) == sorted(
        [("", list(map(ord, name)), name) for name in ("abcd", "abcdef", "abcdxy")]
        + [("scope", [1, 2], "of another")]
    )
