"""The wheels that the witnesses come from, by version, and what they say together."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import metal_cpp, pyobjc, sdk_tables
from .model import Declarations

# Any Python and any macOS would do: nothing of them is run.
PLATFORMS = ["macosx_26_0_arm64", "macosx_10_13_universal2"]
WHEELS = {
    "mlx_metal": "mlx-metal==0.32.4",
    "pyobjc_framework_metal": "pyobjc-framework-Metal==12.2.2",
    "pyobjc_framework_cocoa": "pyobjc-framework-Cocoa==12.2.2",
}


@dataclass
class Witnesses:
    """What has been published."""

    metal_cpp: Declarations
    sdk_tables: Declarations
    metadata: list[pyobjc.Metadata]  # Metal, Foundation


def fetch(folder: Path) -> dict[str, Path]:
    """The wheels, downloaded from PyPI into `folder` unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, requirement in WHEELS.items():
        pattern = f"{name}-{requirement.rpartition('=')[2]}-*.whl"
        if not list(folder.glob(pattern)):
            platforms = [f"--platform={platform}" for platform in PLATFORMS]
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *platforms,
                 "--python-version=3.12", "--only-binary=:all:", f"--dest={folder}", requirement],
                check=True,
            )  # fmt: skip
        found[name] = next(iter(folder.glob(pattern)))
    return found


def read(folder: Path) -> Witnesses:
    """All witnesses, from the wheels in `folder`."""
    wheels = fetch(folder)
    return Witnesses(
        metal_cpp=metal_cpp.read(wheels["mlx_metal"]),
        sdk_tables=sdk_tables.read(wheels["pyobjc_framework_metal"]),
        metadata=[
            pyobjc.read(wheels["pyobjc_framework_metal"], "Metal"),
            pyobjc.read(wheels["pyobjc_framework_cocoa"], "Foundation"),
        ],
    )
