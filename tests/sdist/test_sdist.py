"""What is published builds by itself: sdist, a wheel from it with a bare compiler, an installation.

Not among the default test paths, since it compiles everything again (`make sdist-test`).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXCLUDED = (".ci/", "benchmarks/")  # as pyproject.toml says
# What Xcode's command line tools give a Mac; cmake and ninja come from PyPI.
COMPILER = ["c++", "g++", "cc", "gcc", "as", "ld", "ar", "ranlib", "nm", "strip", "sh", "uname"]


def tracked(folder=""):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder or "."],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return {path for path in listed.splitlines() if (ROOT / path).is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run([sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT], check=True)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the unpacked sdist, in isolation, with nothing but a compiler on PATH."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(sdist, folder)
    tools = folder / "bin"
    tools.mkdir()
    python_was_made_by = {sysconfig.get_config_var(name).split()[0] for name in ("CC", "CXX", "AR")}
    for name in {*COMPILER, *python_was_made_by}:
        path = shutil.which(name, path="/usr/bin:/bin")
        assert path, name
        (tools / name).symlink_to(path)
    (source,) = folder.glob("moeflux-*")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", source],
        check=True,
        env={"PATH": str(tools), "HOME": os.environ["HOME"]}
        | {name: value for name, value in os.environ.items() if name.startswith("PIP_")},
    )
    (built,) = (folder / "dist").iterdir()
    return built


def test_sdist_is_what_git_tracks(sdist):
    with tarfile.open(sdist) as archive:
        found = {member.name.split("/", 1)[1] for member in archive.getmembers()}
    wanted = {path for path in tracked() if not path.startswith(EXCLUDED)}
    assert found == wanted | {"PKG-INFO"}


def test_wheel_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {path for path in archive.namelist() if ".dist-info/" not in path}
    (module,) = (path for path in found if path.endswith(".so"))
    assert Path(module).name.startswith("_core.")
    assert found - {module} == {path.removeprefix("python/") for path in tracked("python/moeflux")}


def test_installed_wheel_writes_text(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv/bin"
    subprocess.run([binaries / "pip", "install", "-q", wheel], check=True, cwd=tmp_path)
    written = subprocess.run(
        [binaries / "moeflux", "generate", "def main(", "--max-tokens", "8"],
        check=True, cwd=tmp_path, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert written.strip()
