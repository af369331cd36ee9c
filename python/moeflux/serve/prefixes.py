"""What is remembered of prompts, in memory and on disk, as the step loop uses it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from ..errors import MemoryBudgetError
from ..snapshot import Snapshot
from .disk_cache import DiskCache, Entry
from .disk_threads import DiskThreads
from .memory import Room
from .prefix_cache import Dropped, Kept, Match, OnDrop, PrefixCache
from .sequence import Sequence

SPACING = 4096  # tokens between checkpoints of a long prompt
LEAST = 16  # tokens that a snapshot saves at least
LEAST_ON_DISK = 256  # that one on disk saves
LONG = 2048  # tokens of system and tools that are written at once
EVICTED = 8  # share of the snapshots that goes at once where memory runs out


class Prefixes:
    """Finds and keeps states of sequences. The step thread alone uses it, but for the counts.

    Args:
        cache: of snapshots in memory.
        room: of the model's budget.
        disk: of snapshots in files; None where there is none.
        wake: ends a wait of the step thread.
    """

    def __init__(
        self, cache: PrefixCache, room: Room, disk: DiskCache | None, wake: Callable[[], object]
    ) -> None:
        self._cache, self._room, self.disk = cache, room, disk
        self._threads: DiskThreads | None = None  # a disk without files is false
        self._on_disk: dict[Sequence, Entry] = {}  # waits until others' snapshots are used
        self._fetching: dict[Sequence, Future[list[Snapshot]]] = {}
        self._fetched: dict[Sequence, Kept] = {}  # until it is admitted
        if disk is not None:
            self._threads = DiskThreads(disk, wake, cache.max_bytes)

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def nbytes(self) -> int:
        """Of snapshots in memory, on their way to the disk, too."""
        return self._cache.nbytes + self._pending_bytes

    @property
    def is_busy(self) -> bool:
        """Whether the disk is read or written: something will change without a step."""
        return bool(self._on_disk or self._fetching) or self._pending_bytes > 0

    @property
    def _pending_bytes(self) -> int:
        return self._threads.pending_bytes if self._threads else 0

    def expect(self, sequence: Sequence) -> None:
        """Looks for the beginning of one that arrives; one on disk begins to be read."""
        if sequence.echoes:
            return
        scope = sequence.job.scope
        self._recount(sequence)
        if self._threads is None or sequence.choice:  # others go on from the first one's
            return
        entry = self._threads.disk.find(sequence.tokens, scope)
        if entry is None or entry.position < sequence.taken.cached + LEAST_ON_DISK:
            return
        sequence.taken.cached = entry.position  # as the scheduler is told
        self._on_disk[sequence] = entry

    def is_ready(self, sequence: Sequence, promised: int) -> bool:
        """Whether what is on disk of its prompt has been read, or nothing can be.

        Args:
            sequence: that waits.
            promised: bytes that those who run are going to take.
        """
        if (entry := self._on_disk.get(sequence)) is not None:
            return not self._fetch(sequence, entry, promised)
        future = self._fetching.get(sequence)
        if future is None:
            return True
        if not future.done():
            return False
        del self._fetching[sequence]
        if not (found := future.result()):
            self._recount(sequence)
            return True
        snapshot = found[0]
        self._fetched[sequence] = kept = Kept(snapshot, snapshot.extents)
        held = sequence.tokens[: snapshot.position]
        self._insert(held, kept, sequence.job.scope, hits=1)
        return True

    def _fetch(self, sequence: Sequence, entry: Entry, promised: int) -> bool:
        """Begins to read, or waits for that: those that were read and are not used have a bound.

        False: whoever is admitted before there is room for it computes its prompt.
        """
        assert self._threads is not None
        others = (*self._fetching, *self._fetched)
        held = sum(self._room.bytes(other.taken.cached) for other in others)
        wanted = self._room.bytes(entry.position) + self._room.extent_bytes
        if others and held + wanted > self._cache.max_bytes:
            return True
        short = wanted + promised - self._room.free_bytes  # its session shares the rest with it
        if short > self._cache.nbytes:
            return False
        del self._on_disk[sequence]
        if entry.position < self._recount(sequence) + LEAST_ON_DISK:  # by now
            return False
        sequence.taken.cached = entry.position
        self._cache.evict(short, time.monotonic())
        self._fetching[sequence] = self._threads.read(entry, sequence.tokens)
        return True

    def _recount(self, sequence: Sequence) -> int:
        """Tokens of it that memory has, as the scheduler is told."""
        found = self._cache.find(sequence.tokens, sequence.job.scope).position
        sequence.taken.cached = found
        return found

    def match(self, sequence: Sequence, now: float) -> tuple[Match, bool]:
        """What one that is admitted can go on from, and whether the disk had that."""
        found = self._cache.find(sequence.tokens, sequence.job.scope, now)
        self._on_disk.pop(sequence, None)  # there was no room to read it
        fetched = self._fetched.pop(sequence, None)
        if fetched is not None and fetched.snapshot.position > found.position:
            at = fetched.snapshot.position
            found = Match(fetched, at, max(found.known, at))
        on_disk = fetched is not None and found.kept is fetched
        if sequence.echoes or found.position < LEAST:
            return Match(None, 0, found.known), False
        return found, on_disk

    def forget(self, sequence: Sequence) -> None:
        """One that has ended needs nothing from the disk."""
        for known in (self._on_disk, self._fetching, self._fetched):
            known.pop(sequence, None)

    def checkpoints(self, sequence: Sequence, known: int) -> list[int]:
        """Lengths of the prompt after which its state is kept."""
        if sequence.echoes:
            return []
        n, begin = len(sequence.job.ids), sequence.position
        wanted = {*sequence.job.marks, *range(SPACING, n, SPACING), min(known, n - 1)}
        if sequence.job.n > 1 and sequence.choice == 0:
            wanted.add(n - 1)
        found: list[int] = []
        for at in sorted(at for at in wanted if begin + LEAST <= at <= n):
            if not found or at - found[-1] >= LEAST or at == n - 1:
                found.append(at)
        return found

    def keep(self, sequence: Sequence) -> None:
        """Puts a session's state into the cache, where there is room."""
        job = sequence.job
        if sequence.session is None or sequence.position < LEAST or job.echo is not None:
            return
        held = sequence.tokens[: sequence.position]
        match = self._cache.find([*held, 0], job.scope)
        if match.position > len(held) - LEAST or not self._cache.max_bytes:
            return
        try:
            kept = sequence.save()
        except MemoryBudgetError:
            return
        if list(job.marks[:-1])[:1] == [len(held)]:  # the first of several: system and tools
            kept = replace(kept, is_shared=True)
        self._insert(held, kept, job.scope)
        if self._threads is not None and kept.is_shared and len(held) >= LONG:
            self._threads.write(held, job.scope, kept.snapshot, 0)

    def evict(self, nbytes: int, now: float, *, spills: bool) -> bool:
        """Lets snapshots go until so many bytes are free.

        Args:
            nbytes: that are wanted.
            now: seconds of a clock.
            spills: those worth it are written first: who wants the bytes can wait.

        Returns:
            Whether the bytes are to be waited for.
        """
        if spills:
            self._cache.evict(nbytes - self._pending_bytes, now, self._on_drop)
        else:
            self._cache.evict(nbytes, now)
        return spills and nbytes > 0 and self._pending_bytes > 0

    def make_room(self, now: float) -> bool:
        """Lets a share of the snapshots go, then those on their way from and to the disk.

        Returns:
            Whether there were any.
        """
        if self._cache.evict(max(self._cache.nbytes // EVICTED, 1), now):
            return True
        if self.drop_reads():
            return True
        return self._threads.drop() if self._threads else False

    def drop_reads(self) -> bool:
        """Lets go what is read or was read for those who wait: they compute their prompts."""
        if self._threads is None:
            return False
        dropped, waiting = self._threads.drop_reads(), (*self._fetching, *self._fetched)
        self._fetching.clear()
        self._fetched.clear()
        for sequence in waiting:
            self._recount(sequence)
        return dropped or bool(waiting)

    def close(self, seconds: float) -> None:
        """Writes what is worth it, the best first, for so many seconds; nobody steps any more."""
        if self._threads is None:
            return
        for dropped in self._cache.best_first(time.monotonic()):
            self._spill(self._threads, dropped, at_end=True)
        self._threads.close(seconds)

    def abort(self) -> None:
        """Gives up what is not written yet, from any thread."""
        if self._threads is not None:
            self._threads.abort()

    @property
    def _on_drop(self) -> OnDrop | None:
        """Writes what the cache drops, where there is a disk."""
        return partial(self._spill, self._threads) if self._threads else None

    def _insert(self, held: list[int], kept: Kept, scope: str, hits: float = 0.0) -> None:
        self._cache.insert(held, kept, scope, time.monotonic(), hits, self._on_drop)

    def _spill(self, threads: DiskThreads, dropped: Dropped, at_end: bool = False) -> None:
        """A talk goes on from its end, others from what they share; each file holds all of it."""
        wanted = dropped.is_end or dropped.branches or dropped.kept.is_shared
        if wanted and dropped.tokens.size >= LEAST_ON_DISK:
            threads.write(dropped.tokens.tolist(), dropped.scope, dropped.kept.snapshot,
                          dropped.nbytes, at_end=at_end)  # fmt: skip
