"""Whoever follows the recipe for a weight format has one that models compute with.

The recipe is that of CONTRIBUTING.md: in a copy of the tree the two files that it names get a row
and a transcoder, and nothing else changes. The copy's core is built here, without optimisation.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest

ROOT = Path(__file__).parents[2]
ADDED = ROOT / "tests/recipes/format"
SOURCES = ("csrc", "cmake", "shaders", "tools", "python", "CMakeLists.txt")
PROGRAM = Path(__file__).with_name("format_program.py")


def run(*command):
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The Python folder of a tree that has the added format, its core beside it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = text.split("### Add a weight format\n")[1].split("\n### ")[0]
    files = re.findall(r"^\d\. `([\w./]+)`", recipe, re.M)
    assert files == ["csrc/base/format.cpp", "csrc/base/transcoders.h"]
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for part in SOURCES:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tree / part, **({"ignore": ignored} if copy is shutil.copytree else {}))
    table, transcoders = (tree / file for file in files)
    begin, rows = table.read_text().split("constexpr Format kFormats[] = {")
    table.write_text(
        begin
        + "constexpr Format kFormats[] = {"
        + rows.replace("\n};", "\n" + (ADDED / "row.txt").read_text() + "};", 1)
    )
    end = "}  // namespace moeflux::quant"
    transcoders.write_text(transcoders.read_text().replace(
        end, (ADDED / "transcoder.txt").read_text() + end))  # fmt: skip
    options = {
        "MOEFLUX_PYTHON": "ON",
        "MOEFLUX_KERNELS": "portable",
        "MOEFLUX_WERROR": "ON",
        "CMAKE_CXX_FLAGS_RELEASE": "-O0",
        "CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    run("cmake", "-S", tree, "-B", tree / "build", *(f"-D{k}={v}" for k, v in options.items()))
    run("cmake", "--build", tree / "build", "--target", "_core", "-j2")
    for core in (tree / "build").glob("_core*.so"):
        shutil.copy(core, tree / "python/moeflux")
    return tree / "python"


def test_an_added_format_computes_as_numpy_says(package, tmp_path):
    output = run(sys.executable, PROGRAM, package, tmp_path)
    assert "followed" in output
