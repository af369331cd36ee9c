"""Sessions over a bad disk, again and again; run by test_sessions.py with the faults preloaded.

Sessions fork, are cut, saved, kept in files and stepped, alone and together, by two threads a
model, while a third aborts whatever runs, budgets change, expert reads fail and the disk that
snapshots go to is full. Logits must be those of a cold run without faults, bit for bit; every error
is a typed one that leaves its session as it was. Between rounds nothing may be left: no memory of
sessions, no file, no thread. Prints one JSON object with what it saw.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import moeflux
from moeflux.errors import (
    FormatError,
    Interrupted,
    IoError,
    MemoryBudgetError,
    MoefluxError,
    SessionError,
)

CONTEXT, LENGTH = 1024, 700  # tokens; three extents of a cache are shared in full at most
BRANCHES = (0, 100, 256, 300, 511)  # where texts leave the first one
MEMORY = 128 << 20  # room for 200 forks; threads change it
MOST = 12  # sessions of a thread
LEAST = 60  # calls of a thread in a round, however short
# Of 65,536. A step has many reads and a snapshot some writes, and one in five fails of each.
READS, WRITES = (3000, 1500, 60, 100), 3000  # short, interrupted, failed, late
faults = ctypes.CDLL(None)


def set_faults(on: bool, seed: int = 1) -> None:
    faults.set_faults(ctypes.c_uint64(seed), *(READS if on else (0, 0, 0, 0)))
    faults.set_write_faults(WRITES if on else 0)


def held() -> dict[str, int]:
    """What the process holds."""
    return {
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def texts() -> list[list[int]]:
    """Texts that begin as the first one does, up to their branch."""
    numbers = np.random.Generator(np.random.PCG64(7))
    first = numbers.integers(0, 250, LENGTH).tolist()
    return [first[:at] + numbers.integers(0, 250, LENGTH - at).tolist() for at in BRANCHES[1:]] + [
        first
    ]


@dataclass
class Walk:
    """A session that holds the first tokens of a text."""

    session: moeflux.Session
    text: int
    at: int = 0


class Soak:
    """One model, what its texts' logits are, and what was done with it."""

    def __init__(self, folder: str, slots: int) -> None:
        self.folder, self.texts = Path(folder), texts()
        cold = moeflux.load(folder, memory="256MiB", context=CONTEXT, threads=2)
        self.expected = [cold.session().step(text, all_logits=True) for text in self.texts]
        self.model = moeflux.load(
            folder, memory=MEMORY, context=CONTEXT, max_slots=slots, threads=2
        )
        self.seen: Counter[str] = Counter()
        self.session_bytes = self.besides_slots()
        self.lock = threading.Lock()

    def besides_slots(self) -> int:
        stats = self.model.stats
        return stats["live_bytes"] - stats["slots"] * stats["slot_bytes"]

    def count(self, what: str) -> None:
        with self.lock:
            self.seen[what] += 1

    def quiet(self) -> None:
        """Nobody has a session: nothing is held but slots, also after 200 forks."""
        gc.collect()
        assert self.besides_slots() == self.session_bytes, "sessions left memory behind"
        session = self.model.session()
        session.step(self.texts[0])
        before = self.besides_slots()
        forks = [session.fork() for _ in range(200)]
        assert self.besides_slots() > before
        del forks
        assert self.besides_slots() == before, "200 forks left memory behind"
        del session
        assert self.besides_slots() == self.session_bytes
        left = [one.name for one in self.folder.iterdir() if "kept" in one.name]
        assert not left, f"files are left: {left}"


class Thread:
    """What one thread does with sessions of its own."""

    def __init__(self, soak: Soak, number: int, seed: int) -> None:
        self.soak, self.model, self.number = soak, soak.model, number
        self.rng = random.Random(seed)
        self.walks = [Walk(self.model.session(), 0)]
        self.path = soak.folder / f"kept{number}"
        own = [self.resize] if number == 0 else []
        self.actions = [self.step] * 6 + [
            self.together, self.fork, self.fork, self.truncate, self.save, self.file, self.drop,
            *own,
        ]  # fmt: skip

    def run(self, until: float) -> None:
        done = 0
        while time.monotonic() < until or done < LEAST:
            done += 1
            action = self.rng.choice(self.actions)
            walk = self.rng.choice(self.walks)
            try:
                action(walk)
                self.soak.count(action.__name__)
            except (FormatError, Interrupted, IoError, MemoryBudgetError, SessionError) as error:
                self.soak.count(f"{action.__name__}: {type(error).__name__}")
            for one in self.walks:
                assert one.session.position == one.at, "an error moved a session"
            if self.number == 0:  # who changes the budget knows it
                stats = self.model.stats
                assert stats["live_bytes"] <= stats["memory_bytes"], stats
        self.path.unlink(missing_ok=True)

    def add(self, walk: Walk) -> None:
        self.walks.append(walk)
        if len(self.walks) > MOST:
            self.walks.pop(self.rng.randrange(len(self.walks)))

    def next_tokens(self, walk: Walk) -> list[int]:
        n = min(self.rng.choice((1, 1, 1, 4, 40, 300)), LENGTH - walk.at)
        return self.soak.texts[walk.text][walk.at : walk.at + n]

    def moved(self, walk: Walk, n: int, logits: np.ndarray) -> None:
        walk.at += n
        expected = self.soak.expected[walk.text][walk.at - 1]
        assert np.array_equal(logits, expected), f"wrong logits of text {walk.text} at {walk.at}"

    def step(self, walk: Walk) -> None:
        if tokens := self.next_tokens(walk):
            self.moved(walk, len(tokens), walk.session.step(tokens))

    def together(self, _: Walk) -> None:
        some = self.rng.sample(self.walks, min(4, len(self.walks)))
        given = [(walk, tokens) for walk in some if (tokens := self.next_tokens(walk))]
        if not given:
            return
        try:
            rows = self.model.step_batch([(walk.session, tokens) for walk, tokens in given])
        except MoefluxError as error:
            assert error.session is None or error.session in [walk.session for walk, _ in given]
            assert error.session is not None or not isinstance(error, IoError)
            raise
        for (walk, tokens), row in zip(given, rows, strict=True):
            self.moved(walk, len(tokens), row)

    def fork(self, walk: Walk) -> None:
        """The fork may go on with any text that is the same up to here."""
        same = [i for i, text in enumerate(self.soak.texts)
                if text[: walk.at] == self.soak.texts[walk.text][: walk.at]]  # fmt: skip
        self.add(Walk(walk.session.fork(), self.rng.choice(same), walk.at))

    def truncate(self, walk: Walk) -> None:
        n = self.rng.randint(0, walk.at)
        can = n in (0, walk.at) or n >= walk.session.truncatable_to
        try:
            walk.session.truncate(n)
            walk.at = n
        except SessionError:
            assert not can
            raise
        assert can

    def save(self, walk: Walk) -> None:
        snapshot = walk.session.save()
        other = Walk(self.model.session(), walk.text)
        other.session.restore(snapshot)
        other.at = walk.at
        self.add(other)

    def file(self, walk: Walk) -> None:
        """A snapshot to a disk that may be full, and back, whole and with a flipped bit."""
        self.path.unlink(missing_ok=True)
        try:
            walk.session.save().write(self.path, tokens=self.soak.texts[walk.text][: walk.at])
        except IoError:
            names = [one.name for one in self.soak.folder.iterdir() if self.path.name in one.name]
            assert not names, f"a failed write left {names}"
            raise
        data = self.path.read_bytes()
        at, bit = self.rng.randrange(len(data)), 1 << self.rng.randrange(8)
        flipped = self.path.with_name(self.path.name + ".flipped")
        try:
            self.damaged(flipped, data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            self.damaged(flipped, data[:at])
        finally:
            flipped.unlink(missing_ok=True)
        other = Walk(self.model.session(), walk.text)
        other.session.restore(moeflux.Snapshot.read(self.model, self.path))
        other.at = walk.at
        self.add(other)

    def damaged(self, path: Path, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the disk of the test is that disk, too
            path.write_bytes(data)
            try:
                moeflux.Snapshot.read(self.model, path)
            except FormatError:
                return
            raise AssertionError("a damaged snapshot was read")

    def drop(self, walk: Walk) -> None:
        """One goes, another one begins anew."""
        if len(self.walks) > 1:
            self.walks.remove(walk)
        first = self.walks[0]
        first.session.reset()
        first.text, first.at = self.rng.randrange(len(self.soak.texts)), 0

    def resize(self, _: Walk) -> None:
        least = self.model._native.least_bytes()
        self.model.memory = self.rng.choice((least, least + (1 << 19), MEMORY, MEMORY, MEMORY))


def round_(soaks: list[Soak], seed: int, seconds: float, failures: list[str]) -> None:
    """Two threads a model and one that aborts; then quiet, and a good disk."""
    set_faults(True, seed)
    over = threading.Event()
    until = time.monotonic() + seconds

    def guarded(soak: Soak, number: int) -> None:
        try:
            Thread(soak, number, seed + number).run(until)
        except BaseException as error:
            failures.append(f"{type(error).__name__}: {error}")

    def abort() -> None:
        rng = random.Random(seed)
        while not over.wait(rng.uniform(0.01, 0.2)):
            rng.choice(soaks).model.abort()

    threads = [threading.Thread(target=guarded, args=(soak, i)) for soak in soaks for i in (0, 1)]
    aborter = threading.Thread(target=abort)
    for thread in (*threads, aborter):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    aborter.join()
    set_faults(False)
    for soak in soaks:
        soak.model.memory = MEMORY
        soak.quiet()


def main() -> None:
    folders, seconds = sys.argv[1:3], float(sys.argv[3])
    set_faults(False)
    soaks = [Soak(folder, slots=10) for folder in folders]
    failures: list[str] = []
    rounds = max(3, int(seconds / 30))
    before: dict[str, int] = {}
    for i in range(rounds):
        round_(soaks, 100 * i, seconds / rounds, failures)
        if failures:
            break
        if i == rounds // 3:  # allocators and caches have their size
            before = held()
    after = held()
    faults.fault_count.restype = ctypes.c_uint64
    names = ("short", "eintr", "eio", "slow", "write")
    print(json.dumps({
        "failures": failures, "seen": [dict(sorted(soak.seen.items())) for soak in soaks],
        "rounds": rounds, "before": before, "after": after,
        "faults": {name: faults.fault_count(i) for i, name in enumerate(names)},
        "misses": [soak.model.stats["misses"] for soak in soaks],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
