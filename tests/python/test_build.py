"""A build that cannot be says in one sentence what is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="pip brings a cmake of its own")
def test_missing_headers_of_python_are_named(tmp_path):
    missing = ["-DPython_ARTIFACTS_INTERACTIVE=ON", "-DPython_INCLUDE_DIR=/nowhere"]
    configure = ["cmake", "-S", ROOT, "-B", tmp_path, "-DMOEFLUX_PYTHON=ON", *missing]
    done = subprocess.run(configure, capture_output=True, text=True, timeout=120)
    assert done.returncode
    (error,) = done.stderr.split("CMake Error")[1:]
    words = " ".join(error.split())
    assert "found no Python.h" in words and "install python3-dev" in words
