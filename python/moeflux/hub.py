"""From what a person types to a checkpoint folder: a folder, a hub id, or the demo model."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from . import files
from .errors import DownloadError, IoError, MoefluxError
from .lookalikes import refuse_gguf

# Data only: nothing that could be executed is fetched.
ALLOWED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILE = re.compile(r".*\.(gguf|json|safetensors|bin|jinja|model)", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")

# What the classes of huggingface_hub and of its HTTP clients come to, by name: they move between
# modules from version to version.
_REASONS = {
    "GatedRepoError": "its owner wants terms accepted on the hub, and a login (`hf auth login`)",
    "RepositoryNotFoundError": "the hub has no such model, or shows it after a login only "
    "(`hf auth login`)",
    "RevisionNotFoundError": "the model has no such revision",
    "EntryNotFoundError": "the model has no config.json",
    "NotASafetensorsRepoError": "the model has no safetensors files",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
    "TransportError": "the hub cannot be reached",
    "ConnectionError": "the hub cannot be reached",
    "Timeout": "the hub cannot be reached",
}


def local_folder(path: str | os.PathLike[str]) -> Path | None:
    """The folder of that name, ~ expanded; None: there is none.

    Raises:
        IoError: the system does not tell, for want of a permission for example.
    """
    try:
        folder = Path(path).expanduser()
    except RuntimeError:  # ~ of nobody: a name like others
        folder = Path(path)
    return folder if os.fspath(path) and stat.S_ISDIR(files.mode(folder)) else None


def require_hub_id(path: str | os.PathLike[str]) -> str:
    """`path` if a hub may be asked for it: owner/name, and no sign that it is a name on this disk.

    Raises:
        FormatError: it is a GGUF file.
        IoError: it is none, or looks like a path: names of one's own files are told to nobody.
    """
    text = str(path)
    refuse_gguf([text], text)
    if os.path.isfile(text):
        raise IoError(f"[hub] expected a checkpoint folder, found a file ({text})")
    first = text.split("/")[0]
    why = f"; {first} is a folder here, so no hub was asked" if os.path.isdir(first) else ""
    if why or _FILE.fullmatch(text) or not _HUB_ID.fullmatch(text):
        raise IoError(f"[hub] expected a checkpoint folder or a hub id owner/name{why} ({text})")
    return text


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
        FormatError: a GGUF file, or a hub id that has its weights as GGUF only.
        DownloadError: the hub refused, could not be reached, or the cache does not hold it.
    """
    if path is None:
        demo = Path(__file__).parent / "demo"
        if not (demo / "config.json").exists():
            raise IoError(f"[hub] this build ships no demo model; name a checkpoint ({demo})")
        return demo
    folder = local_folder(path)
    if folder is not None:
        return folder
    repo = require_hub_id(path)
    import huggingface_hub

    with asking(f"[hub] cannot fetch {repo}{' offline' if offline else ''}", revision):
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=ALLOWED, local_files_only=offline
            )
        )
        if not offline and not any(folder.glob("*.safetensors")):
            refuse_gguf(huggingface_hub.HfApi().list_repo_files(repo, revision=revision), repo)
    return folder


@contextmanager
def asking(what: str, revision: str | None) -> Iterator[None]:
    """Around questions to a hub: failures are one sentence, bars are shown to people only.

    Raises:
        DownloadError: "`what`: why", for whatever huggingface_hub raises.
    """
    from huggingface_hub import constants

    utils = import_module("huggingface_hub.utils")  # exports them unseen by mypy

    hides = (
        not ((sys.stderr and sys.stderr.isatty()) or "ipykernel" in sys.modules)
        and constants.HF_HUB_DISABLE_PROGRESS_BARS is None  # where it is set, it decides
        and not utils.are_progress_bars_disabled()
    )
    if hides:
        utils.disable_progress_bars()
    try:
        yield
    except MoefluxError:
        raise
    except Exception as error:
        at = f" at {revision}" if revision else ""
        raise DownloadError(f"{what}{at} (there is no such folder either): "
                            f"{_reason(error)}") from None  # fmt: skip
    finally:
        if hides:
            utils.enable_progress_bars()


def _reason(error: BaseException) -> str:
    names = [kind.__name__ for kind in type(error).__mro__]
    if "LocalEntryNotFoundError" in names:
        why = _reason(error.__cause__) if error.__cause__ else "no hub was asked"
        return f"{why}, and its cache on this machine does not hold the whole model"
    known = next((_REASONS[name] for name in names if name in _REASONS), None)
    lines = str(error).strip().splitlines()
    return known or f"{names[0]}: {lines[0] if lines else ''}"


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds (snapshots/COMMIT); None for others."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else None
