"""A copy of the tree for a recipe to be followed in, and the package that it makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11

ROOT = Path(__file__).parents[2]
SOURCES = ("csrc", "cmake", "shaders", "tools", "python")
OPTIONS = {
    "MOEFLUX_PYTHON": "ON",
    "MOEFLUX_WERROR": "ON",
    "MOEFLUX_KERNELS": "portable",
    "CMAKE_CXX_FLAGS_RELEASE": "-O0",
    "CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF",
    "Python_EXECUTABLE": sys.executable,
    "pybind11_DIR": pybind11.get_cmake_dir(),
}
# Without site packages' hooks: an editable installation would be found first.
FROM_PACKAGE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__name__.startswith("ScikitBuild")]
sys.path.insert(0, {package!r})
import moeflux
assert moeflux.__file__.startswith({package!r}), moeflux.__file__
"""


def recipe(name):
    """The section of CONTRIBUTING.md."""
    return (ROOT / "CONTRIBUTING.md").read_text().split(f"### {name}\n")[1].split("\n### ")[0]


def copy(tree):
    """Copies what a core is built of, and the package."""
    for part in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / part, tree / part, ignore=ignored)
    shutil.copy(ROOT / "CMakeLists.txt", tree)


def build(tree):
    """Builds the copy's core, without optimisation. Returns the folder of its package."""
    run("cmake", "-S", tree, "-B", tree / "build", *(f"-D{k}={v}" for k, v in OPTIONS.items()))
    run("cmake", "--build", tree / "build", "--target", "_core", f"-j{os.cpu_count()}")
    for core in (tree / "build").glob("_core*.so"):
        shutil.copy(core, tree / "python/moeflux")
    return tree / "python"


def python(package, program, *args, **environment):
    """The output of a program that imports moeflux from `package`."""
    program = FROM_PACKAGE.format(package=str(package)) + program
    return run(sys.executable, "-c", program, *args, **environment)


def script(package, path, *args, **environment):
    """The output of a file that does."""
    program = "import runpy\nrunpy.run_path(sys.argv.pop(1), run_name='__main__')"
    return python(package, program, path, *args, **environment)


def run(*command, **environment):
    """A command's output; it must succeed."""
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout
