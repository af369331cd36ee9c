"""Whoever follows the recipe for a kernel has one that the doctor checks.

The recipe is that of docs/kernels.md: a copy of shaders and package gets the two files that it
names, and nothing else. The copy's core is built here, without optimisation.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

ROOT = Path(__file__).parents[2]
ADDED = ROOT / "tests/recipes/kernel"  # the files that add negate_f32, at their places


def run(*command, **environment):
    command = [str(word) for word in command]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with a moeflux that has the added kernel."""
    tree = tmp_path_factory.mktemp("tree")
    for part in ("shaders", "python"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, tree / part, ignore=ignored)
    shutil.copytree(ADDED, tree, dirs_exist_ok=True)
    options = {
        "MOEFLUX_PYTHON": "ON",
        "MOEFLUX_KERNELS": "portable",
        "MOEFLUX_SHADER_DIR": tree / "shaders",
        "CMAKE_CXX_FLAGS_RELEASE": "-O0",
        "CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    run("cmake", "-S", ROOT, "-B", tree / "build", *(f"-D{k}={v}" for k, v in options.items()))
    run("cmake", "--build", tree / "build", "--target", "_core", "-j2")
    for core in (tree / "build").glob("_core*.so"):
        shutil.copy(core, tree / "python/moeflux")
    return tree / "python"


def test_an_added_kernel_is_checked_against_its_oracle(package):
    # Without site packages' hooks: an editable installation would be found first.
    program = f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__name__.startswith("ScikitBuild")]
sys.path.insert(0, {str(package)!r})
import pytest, moeflux
assert moeflux.__file__.startswith({str(package)!r}), moeflux.__file__
assert "negate_f32" in moeflux.Backend("host").kernels
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/kernels", "--kernel", "negate_f32"]))
"""
    output = run(sys.executable, "-c", program, MOEFLUX_TEST_DEVICES="host")
    assert "6 passed" in output, output
