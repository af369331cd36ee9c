"""Generates over a bad disk, again and again; run by test_soak.py with the faults preloaded.

Every generation ends in the right text or in a typed error that leaves the session as it was. Two
models work at once, in a thread each. Prints one JSON object with what it saw.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import sys
import threading
from collections import Counter
from pathlib import Path

import moeflux

PROMPTS = ["Hello", "x", "import os\n" * 4, "ab" * 30, "\N{SNOWMAN}?"]
TOKENS = 6
EIO = 6  # of 65,536 reads, a generation makes hundreds; the other rates are per cent
faults = ctypes.CDLL(None)


def set_faults(seed: int, on: bool) -> None:
    rates = (6000, 3000, EIO, 300) if on else (0, 0, 0, 0)
    faults.set_faults(ctypes.c_uint64(seed), *rates)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Soak:
    """One model, what it should say, and what it did."""

    def __init__(self, folder: str, slots: int) -> None:
        self.folder = Path(folder)
        self.model = moeflux.load(folder, memory="64MiB", context=256, max_slots=slots, threads=2)
        self.expected = [self.say(prompt) for prompt in PROMPTS]
        self.live = self.model.stats["live_bytes"]
        self.seen: Counter[str] = Counter()

    def say(self, prompt: str, **options: object) -> str:
        return moeflux.generate(self.model, prompt, max_tokens=TOKENS, **options)

    def run(self, n: int, seed: int) -> None:
        rng = random.Random(seed)
        actions = [self.plain] * 6 + [self.cancelled, self.restored, self.rewritten, self.filed]
        for _ in range(n):
            which = rng.randrange(len(PROMPTS))
            action = rng.choice(actions)
            try:
                action(PROMPTS[which], self.expected[which], rng)
                self.seen[action.__name__] += 1
            except moeflux.IoError:
                self.seen["io_error"] += 1
            live = self.model.stats["live_bytes"]
            assert live == self.live, f"live bytes {live}, at the start {self.live}"

    def plain(self, prompt: str, expected: str, _: random.Random) -> None:
        assert self.say(prompt) == expected

    def cancelled(self, prompt: str, _: str, rng: random.Random) -> None:
        stream = moeflux.stream_generate(self.model, prompt, max_tokens=TOKENS)
        for _ in range(rng.randrange(TOKENS)):
            next(stream, None)
        stream.close()

    def restored(self, prompt: str, expected: str, rng: random.Random) -> None:
        """A failed step leaves the session as it was: the same call then gives the right text."""
        ids = self.model.tokenizer.encode(prompt)
        session = self.stepped(ids[:-1] or ids)
        if session.position == len(ids):
            return
        snapshot = session.save()
        for _ in range(2):
            assert self.say(ids[-1:], session=session) == expected
            session.restore(snapshot)

    def stepped(self, ids: list[int]) -> moeflux.Session:
        session = self.model.session()
        while session.position == 0:
            try:
                session.step(ids)
            except moeflux.IoError:
                self.seen["io_error"] += 1
                assert session.position == 0
        return session

    def filed(self, prompt: str, expected: str, rng: random.Random) -> None:
        """A snapshot to a disk that fails or damages it, then to one that does not."""
        ids = self.model.tokenizer.encode(prompt)
        if len(ids) == 1:
            return
        snapshot, path = self.stepped(ids[:-1]).save(), self.folder / "kept"

        def full(done: int, total: int) -> None:
            raise OSError(errno.ENOSPC, "No space left")

        path.unlink(missing_ok=True)
        try:
            snapshot.write(path, progress=full)
            raise AssertionError("a full disk was written to")
        except moeflux.IoError:
            assert not [one.name for one in self.folder.iterdir() if "kept" in one.name]
        snapshot.write(path, tokens=ids[:-1])
        data = bytearray(path.read_bytes())
        at = rng.randrange(len(data))
        for flipped in (1 << rng.randrange(8), 0):
            path.write_bytes(data[:at] + bytes([data[at] ^ flipped]) + data[at + 1 :])
            try:
                found = moeflux.Snapshot.read(self.model, path)
                assert not flipped
            except moeflux.FormatError:
                assert flipped
        session = self.model.session()
        session.restore(found)
        assert self.say(ids[-1:], session=session) == expected

    def rewritten(self, prompt: str, expected: str, rng: random.Random) -> None:
        """A file cut short under an open model, then whole again."""
        path = rng.choice(sorted(self.folder.glob("*.safetensors")))
        data, before = path.read_bytes(), path.stat()
        try:
            with path.open("r+b") as file:
                file.truncate(rng.randrange(len(data)))
            assert self.say(prompt) == expected
        finally:
            with path.open("r+b") as file:
                file.write(data)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # snapshots know it by that
        assert self.say(prompt) == expected


def main() -> None:
    folders, n, seed = sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
    set_faults(seed, on=False)
    soaks = [Soak(folders[0], slots=12), Soak(folders[1], slots=5)]
    failures: list[str] = []

    def guarded(soak: Soak, count: int, seed: int) -> None:
        try:
            soak.run(count, seed)
        except BaseException as error:
            failures.append(f"{type(error).__name__}: {error}")

    def round_(count: int, seed: int) -> None:
        threads = [
            threading.Thread(target=guarded, args=(soak, count, seed + i))
            for i, soak in enumerate(soaks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    set_faults(seed, on=True)
    round_(n // 4, seed)  # allocators and caches reach their size
    before = rss_bytes()
    round_(n - n // 4, seed + 100)
    grown = rss_bytes() - before
    set_faults(seed, on=False)
    for soak in soaks:
        for prompt, expected in zip(PROMPTS, soak.expected, strict=True):
            soak.plain(prompt, expected, random.Random())
    names = ("short", "eintr", "eio", "slow")
    faults.fault_count.restype = ctypes.c_uint64
    print(
        json.dumps(
            {
                "failures": failures,
                "seen": [dict(soak.seen) for soak in soaks],
                "faults": {name: faults.fault_count(i) for i, name in enumerate(names)},
                "rss_grown_bytes": grown,
                "misses": [soak.model.stats["misses"] for soak in soaks],
            }
        )
    )


if __name__ == "__main__":
    main()
