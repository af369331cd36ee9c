"""Forks, cuts, aborts, snapshots to a full disk, failed expert reads: right bits or typed errors.

MOEFLUX_SOAK_SECONDS=1800 makes it longer; .ci/full does, as a part of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracle import build
from support import bad_disk

SECONDS = int(os.environ.get("MOEFLUX_SOAK_SECONDS", "6"))
WORKER = Path(__file__).with_name("sessions.py")
ACTIONS = ("step", "together", "fork", "truncate", "save", "file", "drop", "resize")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soak")
    models = [
        build(folder / "a", family="qwen3_next", form="mlx-q4", num_experts=24),
        build(folder / "b", family="qwen3_moe", form="hf-bf16", num_experts=24),
    ]
    done = subprocess.run(
        [sys.executable, str(WORKER), *map(str, models), str(SECONDS)],
        env=os.environ | {"LD_PRELOAD": str(bad_disk.shim(folder))},
        capture_output=True, text=True, timeout=300 + 2 * SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    return found


def test_every_call_is_right_or_a_typed_error_that_leaves_its_session(report):
    assert report["failures"] == []
    for seen in report["seen"]:
        assert all(seen.get(action, 0) > 0 for action in ACTIONS), seen


def test_every_kind_of_fault_came_and_was_told(report):
    assert all(count > 0 for count in report["faults"].values()), report["faults"]
    seen = {name for one in report["seen"] for name in one}
    assert {"step: IoError", "step: Interrupted", "step: MemoryBudgetError", "file: IoError",
            "truncate: SessionError"} <= seen  # fmt: skip
    assert min(report["misses"]) > 1000


def test_nothing_is_left_and_the_process_does_not_grow(report):
    before, after = report["before"], report["after"]
    assert (after["files"], after["threads"]) == (before["files"], before["threads"])
    assert after["rss"] - before["rss"] < 8 << 20
