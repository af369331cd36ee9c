"""From what a person types to a checkpoint on disk: a folder or file, a hub id, a shipped model."""

from __future__ import annotations

import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from . import files, known
from .errors import DownloadError, IoError, MoefluxError
from .gguf import choice
from .gguf.contents import is_gguf

# Data only: nothing that could be executed is fetched.
ALLOWED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_OTHERS = "*/*.safetensors"  # weights in folders are of other programs; chat templates are not
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w./-]+))?")
_FILE = re.compile(r".*\.(gguf|json|safetensors|bin|jinja|model)", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")
SHIPPED = {"demo": "demo", "demo-chat": "demo_chat"}  # models in the package, and their folders

# What the classes of huggingface_hub and of its HTTP clients come to, by name: they move between
# modules from version to version.
_UNREACHED = "the hub cannot be reached"
_REASONS = {
    "GatedRepoError": "its owner wants terms accepted on the hub, and a login (`hf auth login`)",
    "RepositoryNotFoundError": "the hub has no such model, or shows it after a login only "
    "(`hf auth login`)",
    "RevisionNotFoundError": "the model has no such revision",
    "EntryNotFoundError": "the model has no config.json",
    "NotASafetensorsRepoError": "the model has no safetensors files",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
    "TransportError": _UNREACHED,
    "ConnectionError": _UNREACHED,
    "Timeout": _UNREACHED,
}


class HubId(NamedTuple):
    """owner/name, or owner/name:label where the label says which of its GGUF models is meant."""

    repo: str
    label: str


def local(path: str | os.PathLike[str]) -> Path | None:
    """The folder or GGUF file of that name, ~ expanded; None: there is none.

    Of a folder that holds a GGUF model and no other, that model's first file.

    Raises:
        IoError: the system does not tell, for want of a permission for example.
        FormatError: a folder of several GGUF models.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError:  # ~ of nobody: a name like others
        found = Path(path)
    mode = files.mode(found) if os.fspath(path) else 0
    if stat.S_ISDIR(mode):
        names = [file.name for file in found.glob("*") if is_gguf(file)]
        if names and not any(found.glob("*.safetensors")):
            return found / choice.choose(names, "", found)[0]
        return found
    return found if mode and is_gguf(found) else None


def shipped(path: str | os.PathLike[str] | None) -> Path | None:
    """The folder of a model in the package; None: it has none of that name.

    Args:
        path: "demo", "demo-chat", or None for the first. A folder of that name comes first; give
            it a path such as "./demo" to be sure of it.

    Raises:
        IoError: this build came without the model.
    """
    name = "demo" if path is None else os.fspath(path)
    if name not in SHIPPED:
        return None
    folder = Path(__file__).parent / SHIPPED[name]
    if not (folder / "config.json").exists():
        raise IoError(f"[hub] this build ships no {name} model; name a checkpoint ({folder})")
    return folder


def require_hub_id(path: str | os.PathLike[str]) -> HubId:
    """`path` if a hub may be asked for it: owner/name, and no sign that it is a name on this disk.

    A short name (known.py) is the hub id that it stands for.

    Raises:
        IoError: it is none, or looks like a path: names of one's own files are told to nobody.
    """
    text = str(path)
    if os.path.isfile(text):
        raise IoError(f"[hub] expected a checkpoint folder or a GGUF file, found another file "
                      f"({text})")  # fmt: skip
    first = text.split("/")[0]
    why = f"; {first} is a folder here, so no hub was asked" if os.path.isdir(first) else ""
    found = _HUB_ID.fullmatch(known.hub_id(text) or text)
    if why or found is None or _FILE.fullmatch(found[1]):
        raise IoError("[hub] expected a checkpoint folder, a GGUF file or a hub id owner/name, or "
                      f"a short name of `moeflux plan`{why} ({text})")  # fmt: skip
    return HubId(found[1], found[2] or "")


def resolve(
    path: str | os.PathLike[str] | None, revision: str | None = None, offline: bool = False
) -> Path:
    """A folder or GGUF file on disk for `path`; downloads a hub id.

    huggingface_hub shows the progress, resumes what was interrupted and keeps files in its cache
    (HF_HOME), so that a second call asks for nothing that is there.

    Args:
        path: a folder, a GGUF file, a hub id "owner/name" or "owner/name:Q4_K_M", "demo-chat" for
            the model in the package that talks, or None for the demo model.
        revision: branch, tag or commit of a hub id.
        offline: use what the cache holds, ask no hub (HF_HUB_OFFLINE=1 does the same).

    Raises:
        IoError: no such folder or file.
        FormatError: several GGUF models, of which none is named.
        DownloadError: the hub refused, could not be reached, or the cache does not hold it.
    """
    found = (None if path is None else local(path)) or shipped(path)
    if found is not None:
        return found
    assert path is not None
    wanted = require_hub_id(path)
    what = f"[hub] cannot fetch {path}{' offline' if offline else ''}"
    with asking(what, revision):
        folder = (None if wanted.label else
                  _snapshot(wanted.repo, ALLOWED, revision, offline, _OTHERS))  # fmt: skip
        if folder is not None and any(folder.glob("*.safetensors")):
            return folder
        names = _gguf_names(wanted.repo, revision, offline)
        if not names and folder is not None:
            return folder
        chosen = choice.choose(names, wanted.label, wanted.repo)
        patterns = [glob.escape(name) for name in chosen]
        return _snapshot(wanted.repo, patterns, revision, offline) / chosen[0]


def _snapshot(
    repo: str, patterns: list[str], revision: str | None, offline: bool, but: str | None = None
) -> Path:
    """The folder of a repository's files that fit `patterns`, but not `but`."""
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=offline,
            ignore_patterns=but,
        )
    )  # fmt: skip


def _gguf_names(repo: str, revision: str | None, offline: bool) -> list[str]:
    """The repository's GGUF files; those in the cache where no hub may be asked or can be."""
    import huggingface_hub
    from huggingface_hub import constants

    def cached() -> list[str]:
        folder = _snapshot(repo, [], revision, True)  # whatever it holds
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*")]

    if offline or constants.HF_HUB_OFFLINE:
        names = cached()
    else:
        try:
            names = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        except Exception as error:
            if _reason(error) != _UNREACHED:
                raise
            names = cached()
    return [name for name in inside(names) if is_gguf(Path(name))]


def inside(names: Iterable[str]) -> list[str]:
    """Those names of a hub's list that stay in the folder which they are put in."""

    def stays(name: str) -> bool:
        return not name.startswith("/") and "\\" not in name and ".." not in name.split("/")

    return list(filter(stays, names))


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


def commit_of(path: Path) -> str | None:
    """The commit of a folder of the hub's cache (snapshots/COMMIT), or of a file there, or None."""
    for folder in (path, *path.parents) if is_gguf(path) else (path,):
        if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
            return folder.name
    return None
