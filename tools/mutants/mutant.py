"""A mutant, where it is listed, and what all kinds of them need."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900  # of a test; a hang is noticed, too


class Broken(Exception):
    """The edit makes no program, or its test says nothing."""


# What the test said when it failed, empty: it passed; and how often it was run.
Verdict = tuple[str, int]


@dataclass(frozen=True)
class Mutant:
    """In `file` the first `old` behind `anchor` becomes `new`; without an anchor it stands once."""

    file: str
    old: str
    new: str
    test: str = ""
    anchor: str = ""
    why: str = ""
    number: int = 0

    def start(self, text: str) -> int:
        """Where `old` stands; code that changed must not lose a mutant silently."""
        anchor = text.find(self.anchor)
        start = text.find(self.old, anchor)
        if min(anchor, start) < 0 or not (self.anchor or text.count(self.old) == 1):
            raise Broken(f"expected {self.old!r} once, found it {text.count(self.old)} times")
        return start

    def edited(self, text: str) -> str:
        start = self.start(text)
        return text[:start] + self.new + text[start + len(self.old) :]


class Kind:
    """How mutants are made and tried.

    Each kind has prepare(mutants), which raises Broken where tests fail as things are, and
    judge(group), which gives a verdict on each of its mutants.
    """

    jobs = 1  # groups judged at a time

    def expand(self, listed: list[Mutant]) -> list[Mutant]:
        """Adds mutants that need no list."""
        return listed

    def groups(self, mutants: list[Mutant]) -> list[list[Mutant]]:
        """What is tried together. Those of a file in a row: it is compiled once more when whole."""
        return [[mutant] for mutant in sorted(mutants, key=lambda mutant: mutant.file)]


def read_list(path: Path) -> tuple[list[Mutant], dict[str, str]]:
    """The mutants of a file, and what it says no test can see, and why.

    An entry with `each` is one mutant for each of its words, which stand for EACH in `new`.
    """
    data = tomllib.loads(path.read_text())
    entries = [
        entry | {"new": entry["new"].replace("EACH", word)}
        for entry in data["mutants"]
        for word in entry.pop("each", [""])
    ]
    return [Mutant(**entry) for entry in entries], data.get("unseen", {})


def run(*command: str | Path, timeout: int | None = TIMEOUT_S, **options: Any):
    """A command's output and exit status; what takes too long has failed."""
    options = {"cwd": ROOT, "capture_output": True, "text": True} | options
    try:
        return subprocess.run(command, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "timed out", "")


def build(tree: Path, folder: Path, target: str, *options: str) -> None:
    """Builds a target of the copy of the checkout in `tree`."""
    options = (*options, "-DMOEFLUX_KERNELS=portable", "-DCMAKE_INTERPROCEDURAL_OPTIMIZATION=OFF")
    for command in (["-S", tree, "-B", folder, *options], ["--build", folder, "-j2", "-t", target]):
        done = run("cmake", *command, timeout=None)
        if done.returncode:
            raise Broken(f"is no program: {(done.stdout + done.stderr)[-3000:]}")


def copy_checkout(tree: Path) -> None:
    """Makes `tree` hold the files of the checkout and build/; those that are the same stay."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    names = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    for path in list(tree.rglob("*")):
        name = path.relative_to(tree).as_posix()
        if path.is_file() and name not in names and not name.startswith("build/"):
            path.unlink()
    for name in names:
        target = tree / name
        if not target.exists() or target.read_bytes() != (ROOT / name).read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
