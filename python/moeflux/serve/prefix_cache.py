"""Snapshots of sessions by the tokens that they hold: a tree whose edges are runs of tokens.

Recurrent state has no history, so a prefix is of use only where a snapshot was taken. The tree
keeps the paths of tokens after their snapshots are gone: where a new prompt leaves a known path,
others will, too, and a snapshot there is worth its bytes.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..snapshot import Snapshot

HALF_LIFE = 3600.0  # seconds, of a hit
MAX_PATH_TOKENS = 1 << 20  # 4 bytes each, and a node a branch

Tokens = NDArray[np.uint32]


@dataclass(frozen=True, eq=False)
class Kept:
    """A snapshot, and what it shares with others.

    Attributes:
        snapshot: of a session; its `nbytes` are its own.
        extents: bytes of each full extent of the KV cache that it holds, by a mark: the same one
            where it is the same extent.
        is_shared: a client has said that others will begin so.
    """

    snapshot: Snapshot
    extents: Mapping[Any, int] = field(default_factory=dict)
    is_shared: bool = False


@dataclass(eq=False)
class _Node:
    edge: Tokens  # from its parent
    parent: _Node | None
    position: int  # tokens from the root to its end
    children: dict[int, _Node] = field(default_factory=dict)
    kept: Kept | None = None
    hits: float = 0.0  # decayed
    when: float = 0.0  # of the last use


@dataclass(frozen=True, eq=False)
class Dropped:
    """A snapshot that goes.

    Attributes:
        tokens: that it holds.
        scope: of them.
        kept: the snapshot.
        nbytes: of memory that nobody else holds.
        is_end: no snapshot goes on from it.
        branches: several paths do.
    """

    tokens: Tokens
    scope: str
    kept: Kept
    nbytes: int
    is_end: bool
    branches: bool


OnDrop = Callable[[Dropped], None]


@dataclass(frozen=True)
class Match:
    """What is known of a prompt.

    Attributes:
        kept: the longest that the prompt begins with; None where there is none.
        position: tokens that it holds.
        known: tokens of the prompt that are on a path, with a snapshot or without.
    """

    kept: Kept | None
    position: int
    known: int


class PrefixCache:
    """Snapshots within a bound of bytes. Paths of different scopes never meet.

    Args:
        max_bytes: of all snapshots together.
        max_path_tokens: that are known, with snapshots or without.

    Attributes:
        nbytes: of all snapshots, each extent once.
    """

    def __init__(self, max_bytes: int, max_path_tokens: int = MAX_PATH_TOKENS) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._max_path_tokens = max_path_tokens
        self._path_tokens = 0
        self._roots: dict[str, _Node] = {}
        self._holders: dict[_Node, None] = {}  # nodes with a snapshot, in the order of insertion
        self._owners: Counter[object] = Counter()  # snapshots by extent

    def __len__(self) -> int:
        return len(self._holders)

    def find(self, ids: Sequence[int], scope: str = "", now: float | None = None) -> Match:
        """The longest snapshot that leaves a token of `ids` to compute. `now` counts a hit."""
        tokens = np.asarray(ids, dtype=np.uint32)
        best, known = None, 0
        for node, known in self._walk(tokens, scope):  # noqa: B007
            if now is not None:
                node.when = now
            if node.kept is not None and node.position < len(tokens):
                best = node
        if best is None:
            return Match(None, 0, known)
        if now is not None:
            best.hits = self._hits(best, now) + 1
            best.when = now
        return Match(best.kept, best.position, known)

    def insert(
        self,
        ids: Sequence[int],
        kept: Kept,
        scope: str = "",
        now: float = 0.0,
        hits: float = 0.0,
        on_drop: OnDrop | None = None,
    ) -> bool:
        """Keeps a snapshot of a session that holds `ids`. False where it is worth no place.

        `on_drop` is told of those that make room, before they go.
        """
        node = self._path(np.asarray(ids, dtype=np.uint32), scope)
        node.when = max(node.when, now)
        if node.kept is None and node.parent is not None:
            node.hits += hits
            node.kept = kept
            self._holders[node] = None
            self._owners.update(kept.extents.keys())
            self.nbytes += self._own_bytes(kept)
            self.evict(self.nbytes - self.max_bytes, now, on_drop)
        self._forget_paths()
        return node.kept is kept

    def evict(self, nbytes: int, now: float = 0.0, on_drop: OnDrop | None = None) -> int:
        """Lets the least valuable snapshots go until `nbytes` are free. Returns what was freed.

        `on_drop` is told of each before it goes.
        """
        freed = 0
        while freed < nbytes and self._holders:
            worst = min(self._holders, key=lambda node: self._value(node, now))
            if on_drop is not None:
                on_drop(self._told(worst))
            freed += self._drop(worst)
        return freed

    def best_first(self, now: float) -> list[Dropped]:
        """All snapshots, the most valuable first."""
        nodes = sorted(self._holders, key=lambda node: self._value(node, now), reverse=True)
        return [self._told(node) for node in nodes]

    def _told(self, node: _Node) -> Dropped:
        assert node.kept is not None
        edges, root, below = [], node, list(node.children.values())
        while root.parent is not None:
            edges.append(root.edge)
            root = root.parent
        scope = next(scope for scope, other in self._roots.items() if other is root)
        is_end = True
        while below and is_end:
            other = below.pop()
            is_end = other.kept is None
            below.extend(other.children.values())
        return Dropped(np.concatenate(edges[::-1]), scope, node.kept, self._own_bytes(node.kept),
                       is_end, len(node.children) > 1)  # fmt: skip

    def _own_bytes(self, kept: Kept) -> int:
        """Bytes that no other snapshot holds."""
        alone = (n for extent, n in kept.extents.items() if self._owners[extent] == 1)
        return kept.snapshot.nbytes + sum(alone)

    def _drop(self, node: _Node) -> int:
        if (kept := node.kept) is None:
            return 0
        freed = self._own_bytes(kept)
        self._owners -= Counter(kept.extents.keys())  # which forgets those without an owner
        node.kept = None
        del self._holders[node]
        self.nbytes -= freed
        return freed

    def _hits(self, node: _Node, now: float) -> float:
        return node.hits * math.exp2(min(node.when - now, 0.0) / HALF_LIFE)

    def _value(self, node: _Node, now: float) -> tuple[float, float]:
        """Tokens that its hits save a byte; of equal ones the older goes first."""
        above = node.parent
        while above is not None and above.kept is None:
            above = above.parent
        saved = node.position - (above.position if above is not None else 0)
        size = max(self._own_bytes(node.kept) if node.kept is not None else 0, 1)
        age = math.exp2(min(node.when - now, 0.0) / HALF_LIFE)
        return saved * (age + self._hits(node, now)) / size, node.when

    def _nodes(self) -> Iterator[_Node]:
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            yield node

    def _walk(self, tokens: Tokens, scope: str) -> Iterator[tuple[_Node, int]]:
        """Nodes whose whole path `tokens` begin with, and how far they go on a known path."""
        node = self._roots.get(scope)
        while node is not None:
            rest = tokens[node.position :]
            child = node.children.get(int(rest[0])) if rest.size else None
            along = _common(child.edge, rest) if child is not None else 0
            yield node, node.position + along
            node = child if child is not None and along == child.edge.size else None

    def _path(self, tokens: Tokens, scope: str) -> _Node:
        """The node at the end of `tokens`, made where there is none."""
        node = self._roots.setdefault(scope, _Node(tokens[:0], None, 0))
        while (rest := tokens[node.position :]).size:
            child = node.children.get(int(rest[0]))
            if child is None:
                self._path_tokens += rest.size
                child = _Node(rest.copy(), node, len(tokens))
                node.children[int(rest[0])] = child
            elif (along := _common(child.edge, rest)) < child.edge.size:
                child = _split(child, along)
            node = child
        return node

    def _forget_paths(self) -> None:
        """Lets ends of paths without a snapshot go, the oldest first, where paths are too many.

        An eighth goes at once: to find the ends takes a walk of all nodes.
        """
        if self._path_tokens <= self._max_path_tokens:
            return
        number = itertools.count()  # of equal ones the first found goes first
        leaves = (n for n in self._nodes() if not n.children and n.parent is not None)
        ends = [(node.kept is not None, node.when, next(number), node) for node in leaves]
        heapq.heapify(ends)
        while ends and self._path_tokens > self._max_path_tokens * 7 // 8:
            end = heapq.heappop(ends)[-1]
            self._drop(end)
            self._path_tokens -= end.edge.size
            parent = end.parent
            assert parent is not None
            del parent.children[int(end.edge[0])]
            if not parent.children and parent.parent is not None:
                heapq.heappush(ends, (parent.kept is not None, parent.when, next(number), parent))


def _common(one: Tokens, other: Tokens) -> int:
    """How many tokens both begin with."""
    size = min(one.size, other.size)
    differ = np.flatnonzero(one[:size] != other[:size])
    return int(differ[0]) if differ.size else size


def _split(node: _Node, at: int) -> _Node:
    """A new node within the edge of `node`, `at` tokens from the edge's beginning."""
    assert node.parent is not None
    middle = _Node(node.edge[:at], node.parent, node.position - node.edge.size + at)
    middle.when = node.when
    node.parent.children[int(node.edge[0])] = middle
    node.edge, node.parent = node.edge[at:], middle
    middle.children[int(node.edge[0])] = node
    return middle
