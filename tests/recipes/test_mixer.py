"""Whoever follows the recipe for a mixer has one that computes, on the CPU and on a device.

The recipe is that of CONTRIBUTING.md: a copy of the core's sources gets the files that it names
and the line, and nothing else. The copy's core is built here, without optimisation.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

ROOT = Path(__file__).parents[2]
ADDED = ROOT / "tests/recipes/mixer"  # the files that add a short convolution, at their places
NAME = "short_convolution"


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the moeflux of a tree in which the recipe was followed."""
    recipe = (ROOT / "CONTRIBUTING.md").read_text().split("### Add a mixer\n")[1].split("\n### ")[0]
    tree = tmp_path_factory.mktemp("tree")
    for part in ("csrc", "cmake", "shaders", "python", "tools"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, tree / part, ignore=ignored)
    shutil.copy(ROOT / "CMakeLists.txt", tree)
    named = re.findall(r"`([\w/]+/<name>\.\w+)`", recipe)
    files = {path.replace("<name>", NAME) for path in named}
    assert files == {str(path.relative_to(ADDED)) for path in ADDED.rglob("*.*")}
    for file in files:
        assert not (tree / file).exists()
        shutil.copy(ADDED / file, tree / file)
    assert "`csrc/ops/mixer.h`" in recipe
    header = tree / "csrc/ops/mixer.h"
    text = header.read_text()
    include, line = '#include "ops/mixers/delta_net.h"\n', "DeltaNet>;"
    assert include in text and line in text
    text = text.replace(include, f'{include}#include "ops/mixers/{NAME}.h"\n')
    header.write_text(text.replace(line, "DeltaNet, ShortConvolution>;"))
    options = {
        "MOEFLUX_PYTHON": "ON",
        "MOEFLUX_WERROR": "ON",
        "MOEFLUX_KERNELS": "portable",
        "CMAKE_CXX_FLAGS_RELEASE": "-O0",
        "CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    run("cmake", "-S", tree, "-B", tree / "build", *(f"-D{k}={v}" for k, v in options.items()))
    run("cmake", "--build", tree / "build", "--target", "_core", f"-j{os.cpu_count()}")
    for core in (tree / "build").glob("_core*.so"):
        shutil.copy(core, tree / "python/moeflux")
    return tree / "python"


def test_an_added_mixer_computes_as_numpy(package, tmp_path):
    # Without site packages' hooks: an editable installation would be found first.
    program = f"""
import runpy, sys
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__name__.startswith("ScikitBuild")]
sys.path.insert(0, {str(package)!r})
import moeflux
assert moeflux.__file__.startswith({str(package)!r}), moeflux.__file__
sys.argv[1:] = [{str(tmp_path)!r}]
runpy.run_path({str(ROOT / "tests/recipes/short_convolution.py")!r})
"""
    assert "computes as numpy" in run(sys.executable, "-c", program)
