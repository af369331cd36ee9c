"""Cross-builds the macOS arm64 wheel of this checkout on Linux, for inspection.

Usage: build.py OUTDIR, run by a CPython of the minor version that the wheel is for.

pyproject.toml and CMakeLists.txt are those of a native build; all that differs is set here. The
Python headers are this interpreter's own: what their pyconfig.h says of Linux is either unused by
the public headers or put right for Apple by pymacconfig.h, which every CPython carries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import stubs
import ziglang

ZIG = Path(ziglang.__file__).with_name("zig")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STUBS = ROOT / "build/cross/stubs"
TOOLS = {"ld64.lld-19": "lld-19", "llvm-nm-19": "llvm-19", "llvm-ar-19": "llvm-19"}


def environment() -> dict[str, str]:
    """What scikit-build-core, CMake and our toolchain file read."""
    major, minor = sys.version_info[:2]
    return os.environ | {
        "_PYTHON_HOST_PLATFORM": "macosx-14.0-arm64",  # the wheel's platform tag
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{major}{minor}-darwin.so",
        "CMAKE_TOOLCHAIN_FILE": str(HERE / "macos-arm64.cmake"),
        "CMAKE_GENERATOR": "Ninja",
        "MOEFLUX_ZIG": str(ZIG),
        "ZIG_GLOBAL_CACHE_DIR": str(ROOT / "build/cross/zig-cache"),
        "MOEFLUX_STUBS": str(STUBS),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def copy_python_headers(folder: Path) -> None:
    """Copies the interpreter's headers; Debian's pyconfig.h would ask for a Linux machine."""
    headers = Path(sysconfig.get_path("include"))
    shutil.copytree(headers, folder, dirs_exist_ok=True)
    debian = headers.parent / str(sysconfig.get_config_var("MULTIARCH")) / headers.name
    if (debian / "pyconfig.h").is_file():
        shutil.copy2(debian / "pyconfig.h", folder)


def build_compiler_runtime(archive: Path) -> None:
    """Builds what a compiler driver would add to the link, such as the helper behind @available."""
    if archive.is_file():
        return
    subprocess.run(
        [
            ZIG, "build-lib", "-target", "aarch64-macos.14.0", "-O", "ReleaseSmall",
            ZIG.parent / "lib/compiler_rt.zig", f"-femit-bin={archive}",
        ],
        check=True,
        env=environment(),
    )  # fmt: skip


def main(out: Path) -> int:
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            print(f"[cross] {tool} is missing: apt-get install {package}", file=sys.stderr)
            return 1
    major, minor = sys.version_info[:2]
    headers = ROOT / f"build/cross/python{major}.{minor}"
    stubs.write_stubs(STUBS)
    copy_python_headers(headers)
    build_compiler_runtime(STUBS / "usr/lib/libcompiler_rt.a")
    command = [
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out),
        "-Ccmake.define.MOEFLUX_WERROR=ON", f"-Ccmake.define.Python_INCLUDE_DIR={headers}",
        str(ROOT),
    ]  # fmt: skip
    return subprocess.run(command, env=environment()).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
