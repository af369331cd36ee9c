"""The wheel of `make cross-wheel` and its build folder, and ways to plant errors in copies of them.

Not among the default test paths: needs ziglang, lld and the wheel (`make cross-test`).
"""

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/cross"))

import build  # noqa: E402
import check_wheel  # noqa: E402

MODULE = check_wheel.module_name()


@pytest.fixture(scope="session")
def wheel():
    found = list((ROOT / "dist").glob("moeflux-*-macosx_14_0_arm64.whl"))
    assert len(found) == 1, f"make cross-wheel makes one, found {found}"
    return found[0]


@pytest.fixture(scope="session")
def build_folder(wheel):
    tag = wheel.stem.split("-", 2)[2]
    folder = ROOT / "build" / tag
    assert folder.is_dir(), f"{folder}: make cross-wheel makes it"
    return folder


@pytest.fixture
def plant(wheel, tmp_path):
    """A copy of the wheel with `change(path, bytes)` applied to its files, and more files."""

    def make(change=lambda path, content: content, added=(), name=wheel.name):
        copy = tmp_path / name
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(copy, "w") as target:
            for info in source.infolist():
                content = change(info.filename, source.read(info))
                if content is not None:
                    target.writestr(info, content)
            for path in added:
                target.writestr(path, b"")
        return copy

    return make


@pytest.fixture
def plant_module(plant):
    """A copy of the wheel whose native module is another, or is changed by a function."""

    def make(module):
        def change(path, content):
            if path != MODULE:
                return content
            return module.read_bytes() if isinstance(module, Path) else module(content)

        return plant(change)

    return make


@pytest.fixture
def compile_copy(build_folder, tmp_path):
    """Compiles a text as the build compiled the file that it stands for; returns the process."""
    commands = json.loads((build_folder / "compile_commands.json").read_text())

    def run(file, text):
        (entry,) = (entry for entry in commands if entry["file"] == str(ROOT / file))
        copy, output = tmp_path / Path(file).name, tmp_path / "copy.o"
        copy.write_text(text)
        arguments = shlex.split(entry["command"])
        arguments[arguments.index("-o") + 1] = str(output)
        arguments[arguments.index(entry["file"])] = str(copy)
        return subprocess.run(
            arguments, cwd=entry["directory"], capture_output=True, text=True,
            env=build.environment(),
        )  # fmt: skip

    return run


@pytest.fixture
def relink(build_folder, tmp_path):
    """Links the module again with further arguments; returns the process and the new module."""
    listed = subprocess.run(
        [sys.executable, "-m", "ninja", "-C", build_folder, "-t", "commands", Path(MODULE).name],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    link = shlex.split(listed.splitlines()[-1].split("&&")[1])

    def run(*further, stubs=build.STUBS):
        output = tmp_path / "relinked.so"
        arguments = [*link, *further]
        arguments[arguments.index("-o") + 1] = str(output)
        process = subprocess.run(
            arguments, cwd=build_folder, capture_output=True, text=True,
            env=build.environment() | {"MOEFLUX_STUBS": str(stubs)},
        )  # fmt: skip
        return process, output

    return run
