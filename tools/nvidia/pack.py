"""A folder with all that `python -m nvidia` needs but Python, numpy, NVRTC and a driver.

For a machine with a GPU that has neither this checkout nor a built moeflux.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import moeflux.doctor.kernels
from moeflux.formats import BITS, GROUPS

_TOOLS = Path(__file__).resolve().parents[1]
_IGNORED = shutil.ignore_patterns("__pycache__")


def pack(shaders: Path, commit: str, folder: Path) -> None:
    """Writes tools, shaders and the oracles to `folder`; of moeflux nothing else."""
    oracles = Path(moeflux.doctor.kernels.__file__).parent
    package = folder / "moeflux"
    for source, to in (
        (_TOOLS / "msl", folder / "tools/msl"),
        (_TOOLS / "nvidia", folder / "tools/nvidia"),
        (shaders, folder / "shaders"),
        (oracles, package / "doctor/kernels"),
    ):
        shutil.copytree(source, to, ignore=_IGNORED, dirs_exist_ok=True)
    for name in ("__init__.py", "doctor/__init__.py"):
        (package / name).write_text("", encoding="utf-8")
    (folder / "COMMIT").write_text(commit + "\n", encoding="utf-8")
    text = f"BITS, GROUPS = {tuple(BITS)}, {tuple(GROUPS)}\n"
    (package / "formats.py").write_text(text, encoding="utf-8")
