"""The models on this disk: in the hub's cache, in folders that we have written, in the package."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..checkpoint import INDEX_NAME, open_checkpoint, read_json
from ..errors import DownloadError, MoefluxError
from . import folders

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo

WRITTEN = {"pack": "packed", "convert": "converted", "synth": "synthetic"}
DOWNLOADED, SHIPPED, OTHER = "downloaded", "in the package", "other"
INCOMPLETE = "incomplete"
PARTS = "*.incomplete"  # what the hub's library calls files on their way


@dataclass(frozen=True)
class Found:
    """A model.

    Attributes:
        name: as --model takes it.
        kind: "downloaded", "packed", "converted", "synthetic", "in the package", or "other": of a
            repository that holds no model which runs here.
        nbytes: of its files, and of those on their way.
        path: of the folder, or of the GGUF file.
        used: when a file of it was last read, in seconds since 1970, as the disk says.
        family: `model_type` of its config.
        format: of its experts' numbers.
        revision: the hub's commit.
        missing: why it does not run; None where it does.
    """

    name: str
    kind: str
    nbytes: int
    path: Path
    used: float | None = None
    family: str | None = None
    format: str | None = None
    revision: str | None = None
    missing: str | None = None


def models() -> list[Found]:
    """All of them, the largest first."""
    found = [*cached(), *map(written, folders.known()), *shipped()]
    return sorted(found, key=lambda model: (-model.nbytes, model.name))


def scan() -> HFCacheInfo | None:
    """The hub's cache; None: there is none."""
    import huggingface_hub

    try:
        return huggingface_hub.scan_cache_dir()
    except (huggingface_hub.CacheNotFound, OSError, ValueError):
        return None


def cached() -> Iterator[Found]:
    """Those of the hub's cache; other programs keep theirs there, too."""
    info = scan()
    if info is None:
        return
    for repo in info.repos:
        parts = _size(repo.repo_path / "blobs", PARTS)
        if repo.repo_type != "model":
            name = f"{repo.repo_type}s/{repo.repo_id}"
            yield Found(name, OTHER, repo.size_on_disk + parts, repo.repo_path)
            continue
        for revision in repo.revisions:
            one = Found(repo.repo_id, OTHER, revision.size_on_disk + parts, revision.snapshot_path,
                        repo.last_accessed, revision=revision.commit_hash)  # fmt: skip
            yield from _of_snapshot(one, is_broken=parts > 0)
            parts = 0  # those of one revision; nobody says which
    seen = {repo.repo_path for repo in info.repos if repo.revisions}
    for folder in _cache().glob("models--*"):
        if folder not in seen and (parts := _size(folder / "blobs", PARTS)):
            name = folder.name.removeprefix("models--").replace("--", "/")
            yield Found(name, DOWNLOADED, parts, folder, missing=INCOMPLETE)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _of_snapshot(one: Found, is_broken: bool) -> Iterator[Found]:
    """A snapshot's model, or one for each of its GGUF models."""
    from ..gguf import choice

    names = [path.relative_to(one.path).as_posix() for path in one.path.rglob("*.gguf")]
    ggufs = choice.models(names)
    if any(one.path.glob("*.safetensors")) or not ggufs:
        yield _described(replace(one, kind=DOWNLOADED), is_broken)
        return
    for model in ggufs:
        nbytes = sum((one.path / name).stat().st_size for name in model)
        label = f":{model[0]}" * (len(ggufs) > 1)
        is_last = model is ggufs[-1]
        more = one.nbytes - sum((one.path / n).stat().st_size for m in ggufs for n in m)
        yield _described(
            replace(one, kind=DOWNLOADED, name=one.name + label, path=one.path / model[0],
                    nbytes=nbytes + more * is_last),
            is_broken and is_last,
        )  # fmt: skip


def _described(one: Found, is_broken: bool) -> Found:
    """What its config and headers say; what no family of ours knows is another's."""
    from ..remote import Headers
    from .info import facts, form

    try:
        with _times_kept(one.path):
            said = facts(Headers(open_checkpoint(one.path), True, None))
    except MoefluxError as error:
        family = _family(one.path)
        if family is None and not is_broken:
            return replace(one, kind=OTHER)
        is_broken = is_broken or _lacks_weights(one.path)
        return replace(one, family=family, missing=INCOMPLETE if is_broken else str(error))
    missing = INCOMPLETE if is_broken else None
    return replace(one, family=said["family"], format=form(said), missing=missing)


def _lacks_weights(folder: Path) -> bool:
    """Whether files are missing that the index of a folder names, or all of them."""
    names: Any = {}
    with contextlib.suppress(MoefluxError, OSError):
        names = read_json(folder / INDEX_NAME).get("weight_map")
    every = names.values() if isinstance(names, dict) else ()
    wanted = {name for name in every if isinstance(name, str)}
    there = {path.name for path in folder.glob("*.safetensors")}
    return not there or not wanted <= there


def _family(folder: Path) -> str | None:
    """What a config says, if it is one that we know."""
    from ..families import FAMILIES

    with contextlib.suppress(MoefluxError, OSError):
        said = read_json(folder / "config.json").get("model_type")
        return said if isinstance(said, str) and said in FAMILIES else None
    return None


@contextlib.contextmanager
def _times_kept(path: Path) -> Iterator[None]:
    """Looking at a model is no use of it: the times of its files are put back."""
    inside = path.iterdir() if path.is_dir() else (path,)
    before = {file: file.stat() for file in inside if file.is_file()}
    try:
        yield
    finally:
        for file, was in before.items():
            with contextlib.suppress(OSError):
                os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def written(folder: Path) -> Found:
    """A folder that a command of ours has written."""
    times = [path.stat().st_atime for path in folder.glob("*.safetensors")]
    kind = WRITTEN[folders.claimed(folder) or "pack"]
    one = Found(str(folder), kind, _size(folder, "*"), folder, max(times, default=None))
    return replace(_described(one, is_broken=False), kind=kind)


def shipped() -> Iterator[Found]:
    """Those in the package, of a build that has them."""
    for name in hub.SHIPPED:
        with contextlib.suppress(MoefluxError):
            if (path := hub.shipped(name)) is not None:
                one = Found(name, SHIPPED, _size(path, "*"), path)
                yield replace(_described(one, is_broken=False), kind=SHIPPED)


def _size(folder: Path, pattern: str) -> int:
    nbytes = 0
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            nbytes += path.stat().st_size if path.is_file() else 0
    return nbytes


def of_repo(name: str) -> CachedRepoInfo | None:
    """What the hub's cache has under a name; None: nothing that can be read."""
    info = scan()
    repos: Any = info.repos if info is not None else ()
    return next((repo for repo in repos if (repo.repo_type, repo.repo_id) == ("model", name)), None)


def refuse_mirror(url: str) -> str:
    """A mirror's address. Raises DownloadError for what is none."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.query
    except ValueError:
        good = False
    if not good:
        raise DownloadError(f"[models] mirror: expected an address such as https://example.org, "
                            f"found {url!r}")  # fmt: skip
    return url.rstrip("/")
