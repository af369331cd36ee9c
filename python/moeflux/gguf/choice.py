"""Which of the GGUF files of a folder or repository is meant: each quantisation is a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..safetensors_header import fail
from . import splits
from .contents import is_gguf

# What lies beside models: towers for images, matrices of importance.
_BESIDE = re.compile(r"(mmproj|imatrix)|.*\b(mmproj|imatrix)\b.*", re.IGNORECASE)
_SHOWN = 12


def models(names: Iterable[str]) -> list[list[str]]:
    """The files of each model among `names`, which may stand in folders; the first is its name."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if is_gguf(Path(name)) and not _BESIDE.fullmatch(path.name):
            first = splits.first(path.name)
            found.setdefault(str(path.with_name(first)), []).append(name)
    return list(found.values())


def choose(names: Iterable[str], label: str, where: Path | str) -> list[str]:
    """The files of the model that is meant.

    Args:
        names: of the files that there are.
        label: a file's name or the end of one, as Q4_K_M; empty: there is one model.
        where: for the message.

    Raises:
        FormatError: none is meant, or several are; the message says which there are.
    """
    every = models(names)
    fitting = [files for files in every if _fits(files, label)]
    if len(fitting) > 1 and label:  # Q4_K_M is also the end of UD-Q4_K_M
        least = min(len(files[0]) for files in fitting)
        fitting = [files for files in fitting if len(files[0]) == least]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(files[0] for files in every[:_SHOWN])
    shown += f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    asked = f"{label!r}, which names {len(fitting)} of them" if label else "no name of one"
    raise fail("gguf", f"expected the name or quantisation of one GGUF model ({shown or 'none'}), "
               f"found {asked}", where)  # fmt: skip


def _fits(files: list[str], label: str) -> bool:
    if not label or label in files:
        return True
    name = PurePosixPath(files[0]).name.lower()
    whole = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name)
    return re.search(rf"(^|[-.]){re.escape(label.lower())}$", whole) is not None or any(
        PurePosixPath(file).name == label for file in files
    )
