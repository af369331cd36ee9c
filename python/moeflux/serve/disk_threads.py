"""Two threads beside the step thread: one reads snapshots from the disk, one writes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..log import logger
from ..snapshot import Snapshot
from .disk_cache import DiskCache, Entry


class _Dropped(Exception):
    """A read or a write that is given up."""


class DiskThreads:
    """What the step thread asks of a disk; it waits for neither thread but where it says so.

    Args:
        disk: that is read and written.
        wake: is called when something is done.
        most_pending: bytes of memory that snapshots on their way to the disk may hold.
    """

    def __init__(self, disk: DiskCache, wake: Callable[[], object], most_pending: int) -> None:
        self.disk = disk
        self._wake, self._most_pending = wake, most_pending
        self._readers = ThreadPoolExecutor(1, "moeflux-disk-read")
        self._writers = ThreadPoolExecutor(1, "moeflux-disk-write")
        self._reading: dict[str, Future[list[Snapshot]]] = {}  # by name
        self._writing: dict[str, tuple[Future[bool], int]] = {}  # bytes of memory that it holds
        self._lock = threading.Lock()  # over what is being read and written
        self._read_drops = self._drops = 0  # times that reads and writes were given up
        self._ended = False  # nothing is read or written any more

    @property
    def pending_bytes(self) -> int:
        """Of memory, held by snapshots that are on their way to the disk."""
        with self._lock:
            return sum(nbytes for _, nbytes in self._writing.values())

    def read(self, entry: Entry, ids: Sequence[int]) -> Future[list[Snapshot]]:
        """Begins to read a file, once for all that wait for it: one snapshot, or none."""
        with self._lock:
            future = self._reading.get(entry.name)
            if future is not None:
                return future
            future = self._readers.submit(self._read, entry, list(ids), self._read_drops)
            self._reading[entry.name] = future
        future.add_done_callback(lambda _: self._was_read(entry.name))  # that may be at once
        return future

    def write(
        self,
        ids: Sequence[int],
        scope: str,
        snapshot: Snapshot,
        nbytes: int,
        *,
        at_end: bool = False,
    ) -> None:
        """Begins to write a snapshot, where the disk has none of these tokens.

        Args:
            ids: that it holds.
            scope: of them.
            snapshot: of a session.
            nbytes: of memory that go when it does; 0 where others keep it.
            at_end: however much is pending: nobody needs the memory.
        """
        name = self.disk.name(ids, scope)
        with self._lock:
            if (known := self._writing.get(name)) is not None:  # the memory may be its own by now
                self._writing[name] = known[0], max(known[1], nbytes)
                return
        pending = self.pending_bytes
        if pending and pending + nbytes > self._most_pending and not at_end:
            return
        if self._ended or self.disk.has(ids, scope):
            return
        with self._lock:
            drops = self._drops
            future = self._writers.submit(self._write, list(ids), scope, snapshot, drops)
            self._writing[name] = future, nbytes
        future.add_done_callback(lambda _: self._written(name))

    def drop_reads(self) -> bool:
        """Gives up what is being read, and waits until its memory is free."""
        with self._lock:
            self._read_drops += 1
            pending = list(self._reading.values())
        wait(pending)
        for future in pending:
            if not future.cancelled():
                future.result().clear()  # it may have been over just now
        return bool(pending)

    def drop(self) -> bool:
        """Gives up what is not written yet, and waits until its memory is free."""
        with self._lock:
            self._drops += 1
            pending = [future for future, _ in self._writing.values()]
        wait(pending)
        return bool(pending)

    def close(self, seconds: float) -> None:
        """Ends both threads, after so many seconds for what is to be written."""
        with self._lock:
            pending = [future for future, _ in self._writing.values()]
        wait(pending, timeout=seconds)
        self.abort()
        for pool in (self._readers, self._writers):
            pool.shutdown(cancel_futures=True)

    def abort(self) -> None:
        """Gives up what is not read or written yet, for good, from any thread; does not wait."""
        self._ended = True

    def _read(self, entry: Entry, ids: list[int], drops: int) -> list[Snapshot]:
        def watch(done: int, total: int) -> None:
            if self._ended or self._read_drops != drops:
                raise _Dropped

        try:
            watch(0, 0)
            found = self.disk.read(entry, ids, watch)
        except _Dropped:
            return []
        except Exception:
            logger.exception("a kept prompt was not read")
            return []
        return [] if found is None else [found]

    def _write(self, ids: list[int], scope: str, snapshot: Snapshot, drops: int) -> bool:
        def watch(done: int, total: int) -> None:
            if self._ended or self._drops != drops:
                raise _Dropped

        try:
            watch(0, 0)
            return self.disk.write(ids, scope, snapshot, watch)
        except _Dropped:
            return False
        except Exception:
            logger.exception("a prompt was not kept on disk")
            return False

    def _was_read(self, name: str) -> None:
        with self._lock:
            self._reading.pop(name, None)
        self._wake()

    def _written(self, name: str) -> None:
        with self._lock:
            self._writing.pop(name, None)
        self._wake()
