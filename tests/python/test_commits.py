"""The rule for subjects of commits (.ci/commits) refuses what it names and nothing else."""

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
