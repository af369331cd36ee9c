"""What .ci says of itself: the rule for subjects of commits, the parts of the full run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(folder, subject):
    def git(*words):
        author = ["-c", "user.name=A", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/commits", folder / ".ci")
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "wip: before the rule.")
    base = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", subject)
    return subprocess.run(
        [folder / ".ci/commits", base], capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize("subject", ["Read shards once", "Need no copy", f"Add {'x' * 68}"])
def test_a_good_subject_passes(subject, tmp_path):
    done = check(tmp_path, subject)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        (f"Add {'x' * 69}", "at most 72 characters, found 73"),
        ("Added a test", "imperative"),
        ("Fixing the lint", "imperative"),
        ("fix lint", "capital"),
        ("Read shards once.", "full stop"),
        ("Merge branch 'gpu6'", "rebase"),
        ("WIP", "squash"),
    ],
)
def test_a_bad_subject_is_told_why(subject, why, tmp_path):
    done = check(tmp_path, subject)
    assert done.returncode == 1 and why in done.stdout and subject in done.stdout


def full(*arguments):
    return subprocess.run(
        [ROOT / ".ci/full", *arguments], capture_output=True, text=True, check=False
    )  # fmt: skip


def test_parts_of_the_full_run_are_there():
    """Each has a name of its own and runs a target of make, or a script."""
    parts = [line.split("#")[0].split(maxsplit=1) for line in full("--list").stdout.splitlines()]
    names, commands = zip(*parts, strict=True)
    assert len(set(names)) == len(names) > 10
    targets = set(re.findall(r"^([a-z0-9% -]+):", (ROOT / "Makefile").read_text(), re.M))
    targets = {name for line in targets for name in line.split()}
    for command in commands:
        first, *rest = command.split()
        assert rest[0] in targets if first == "make" else (ROOT / first).is_file(), command


def test_a_part_that_is_not_there_is_refused():
    done = full("bares")
    assert done.returncode == 2 and "found bares" in done.stderr
