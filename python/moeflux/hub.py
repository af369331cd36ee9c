"""From what a person types to a checkpoint folder: a folder, a hub id, or the demo model."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import DownloadError, IoError

# Data only: nothing that could be executed is fetched.
ALLOWED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(text: str) -> bool:
    """Whether it has the form owner/name."""
    return _HUB_ID.fullmatch(text) is not None


def resolve(
    path: str | os.PathLike[str] | None, revision: str | None = None, offline: bool = False
) -> Path:
    """A folder on disk for `path`; downloads a hub id.

    huggingface_hub shows the progress, resumes what was interrupted and keeps files in its cache
    (HF_HOME), so that a second call asks for nothing that is there.

    Args:
        path: a folder, a hub id "owner/name", or None for the demo model.
        revision: branch, tag or commit of a hub id.
        offline: use what the cache holds, ask no hub (HF_HUB_OFFLINE=1 does the same).

    Raises:
        IoError: no such folder.
        DownloadError: the hub refused, could not be reached, or the cache does not hold it.
    """
    if path is None:
        demo = Path(__file__).parent / "demo"
        if not (demo / "config.json").exists():
            raise IoError(f"[hub] this build ships no demo model; name a checkpoint ({demo})")
        return demo
    try:
        folder = Path(path).expanduser()
    except RuntimeError:  # ~ of nobody: a name like others
        folder = Path(path)
    try:
        if folder.is_dir():
            return folder
    except OSError:  # a name too long
        pass
    if not is_hub_id(str(path)):
        raise IoError(f"[hub] expected a checkpoint folder or a hub id owner/name ({path})")
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(path),
                revision=revision,
                allow_patterns=ALLOWED,
                local_files_only=offline,
            )
        )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise DownloadError(
            f"[hub] cannot fetch {path}"
            f"{f' at {revision}' if revision else ''}{' offline' if offline else ''} "
            f"(there is no such folder either): "
            f"{type(error).__name__}: {reason[0] if reason else ''}"
        ) from error


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds (snapshots/COMMIT); None for others."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else None
