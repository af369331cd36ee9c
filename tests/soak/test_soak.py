"""Generations over a bad disk: the right text or a typed error, level memory, no hang.

MOEFLUX_SOAK=20000 makes it longer (generations of each model); .ci/full does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracle import build
from support import bad_disk

GENERATIONS = int(os.environ.get("MOEFLUX_SOAK", "100"))
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return bad_disk.shim(tmp_path_factory.mktemp("shim"))


def test_generations_over_a_bad_disk_are_right_or_typed_errors(tmp_path, shim):
    folders = [
        build(tmp_path / "a", family="qwen3_next", form="mlx-q4"),
        build(tmp_path / "b", family="qwen3_moe", form="hf-bf16"),
    ]
    done = subprocess.run(
        [sys.executable, str(HERE / "worker.py"), *map(str, folders), str(GENERATIONS), "7"],
        env=os.environ | {"LD_PRELOAD": str(shim)},
        capture_output=True, text=True, timeout=120 + GENERATIONS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    print(report)
    assert report["failures"] == []
    assert all(count > 0 for count in report["faults"].values()), "a kind of fault never came"
    for seen in report["seen"]:
        assert seen["io_error"] > 0 and seen["plain"] > GENERATIONS / 4
        assert seen["restored"] > 0 and seen["cancelled"] > 0 and seen["filed"] > 0
        assert sum(seen.values()) >= GENERATIONS
    assert min(report["misses"]) > GENERATIONS
    assert report["rss_grown_bytes"] < 8 << 20
