"""Clang finds what touches guarded members without their mutex (csrc/base/mutex.h)."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLANG = next(filter(shutil.which, ("clang++-19", "clang++-18", "clang++-17", "clang++")), None)
LOCK = "  base::Lock lock(mutex_);\n"
PLANTED = [  # a file, what is taken out of it, what clang then says
    ("store/expert_store.cpp", LOCK + "  return pool_.n_slots();", "pool_"),
    ("store/expert_store.cpp", LOCK + "  if (--slot->pins > 0) return;", "read_ended"),
    ("io/read_queue.cpp", LOCK + "  while (!queue_.empty()", "queue_"),
    ("device/completion.cpp", "  const base::Lock lock(mutex_);\n  return done_;", "done_"),
    ("engine/engine.cpp", "    base::Lock lock(published_mutex_);\n", "published_"),
    (
        "base/thread_pool.cpp",
        "    Lock lock(error_mutex_);\n    std::swap",
        "error_",
    ),  # not in a catch
]


def complaints(source, file):
    """What clang says of a source in the place of a file of csrc/."""
    command = [CLANG, "-x", "c++", "-std=c++20", "-fsyntax-only", "-Wthread-safety", "-Werror",
               "-Wno-deprecated-declarations", f"-I{ROOT / 'csrc'}", "-"]  # fmt: skip
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False,
                          cwd=(ROOT / "csrc" / file).parent)  # fmt: skip
    assert bool(done.stderr) == (done.returncode != 0)
    return done.stderr


@pytest.mark.skipif(CLANG is None, reason="needs clang")
@pytest.mark.parametrize(
    ("file", "old", "member"),
    [*PLANTED[:2], *(pytest.param(*case, marks=pytest.mark.full) for case in PLANTED[2:])],
)
def test_a_lock_that_is_taken_away_is_missed(file, old, member):
    source = (ROOT / "csrc" / file).read_text()
    assert source.count(old) == 1
    assert complaints(source, file) == ""
    lock = old.index("Lock lock")
    without = old[: old.rfind("\n", 0, lock) + 1] + old[old.index("\n", lock) + 1 :]
    found = complaints(source.replace(old, without), file)
    assert "requires holding mutex" in found and member in found


def test_builds_with_clang_check_locks():
    flags = "CXX,Clang,AppleClang>:-Wthread-safety;-Werror=thread-safety"
    assert flags in (ROOT / "CMakeLists.txt").read_text()
