"""From what a person types to a checkpoint folder: a folder, a hub id, or the demo model."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import DownloadError, IoError

# Data only: nothing that could be executed is fetched.
ALLOWED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(path: str | os.PathLike[str] | None, revision: str | None = None) -> Path:
    """A folder on disk for `path`; downloads a hub id (resumed, cached by huggingface_hub).

    Raises:
        IoError: no such folder.
        DownloadError: the hub refused or could not be reached.
    """
    if path is None:
        demo = Path(__file__).parent / "demo"
        if not (demo / "config.json").exists():
            raise IoError(f"[hub] this build ships no demo model; name a checkpoint ({demo})")
        return demo
    folder = Path(path)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(str(path)):
        raise IoError(f"[hub] expected a checkpoint folder or a hub id owner/name ({path})")
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(str(path), revision=revision, allow_patterns=ALLOWED)
        )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise DownloadError(
            f"[hub] cannot fetch {path}: {type(error).__name__}: {reason[0] if reason else ''}"
        ) from error
