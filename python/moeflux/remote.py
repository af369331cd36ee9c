"""A checkpoint's config and headers without its weights, wherever it is.

Of a hub id a few hundred kilobytes of range requests (of a GGUF file some megabytes: its head holds
the vocabulary) instead of hundreds of gigabytes: enough for `plan` and `info`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from . import hub, packed
from .checkpoint import Checkpoint, open_checkpoint, read_json
from .errors import DownloadError, FormatError, IoError
from .gguf import choice, splits
from .gguf import contents as gguf
from .gguf.header import Header, parse
from .safetensors_header import Tensor, parse_header

PART = 1 << 20  # bytes of an answer that are taken at a time
TIMEOUT_S = 10  # of the first question, as huggingface_hub waits for its others


@dataclass(frozen=True)
class Headers:
    """A checkpoint as its headers describe it.

    Attributes:
        checkpoint: of a hub id, offsets in safetensors files count from the data's begin.
        is_local: whether its weights are on this machine, where `checkpoint.files` says.
        revision: the hub's commit, or None for a folder of one's own.
    """

    checkpoint: Checkpoint
    is_local: bool
    revision: str | None


def open_headers(model: str | None, revision: str | None = None, offline: bool = False) -> Headers:
    """Config and headers of what a person typed; downloads no weights.

    Args:
        model: a folder, a GGUF file, a hub id "owner/name" or "owner/name:Q4_K_M", "demo-chat", or
            None for the demo model.
        revision: branch, tag or commit of a hub id.
        offline: of a hub id, use what the cache holds (HF_HUB_OFFLINE=1 does the same).

    Raises:
        IoError: no such folder, or a file that cannot be read.
        DownloadError: the hub refused or could not be reached, or the cache does not hold it.
        FormatError: headers or config do not say what they must.
    """
    if model is not None and hub.local(model) is None and hub.shipped(model) is None:
        hub.require_hub_id(model)
        from huggingface_hub import constants

        if not (offline or constants.HF_HUB_OFFLINE):
            try:
                return open_remote(model, revision)
            except DownloadError:  # of a hub that is out of reach, what was downloaded before
                cached = _cached(model, revision)
                if cached is None:
                    raise
                return cached
    checkpoint = open_checkpoint(hub.resolve(model, revision, offline))
    return Headers(checkpoint, True, hub.commit_of(checkpoint.path))


def _cached(model: str, revision: str | None) -> Headers | None:
    """The whole checkpoint from the hub's cache, or None: headers alone may be there, too."""
    try:
        checkpoint = open_checkpoint(hub.resolve(model, revision, True))
    except (DownloadError, FormatError, IoError):
        return None
    return Headers(checkpoint, True, hub.commit_of(checkpoint.path))


def open_remote(model: str, revision: str | None = None) -> Headers:
    """The checkpoint of a hub id as the hub has it now; from the cache if that is there whole.

    Raises:
        DownloadError: the hub refused or could not be reached.
        FormatError: headers or config do not say what they must.
    """
    import huggingface_hub

    repo, label = hub.require_hub_id(model)
    with hub.asking(f"[remote] cannot read the headers of {model}", revision):
        # By commit: a branch may move between two requests.
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=TIMEOUT_S)
        commit = info.sha
        cached = _cached(model, commit)
        if cached is not None:
            return cached
        names = hub.inside(file.rfilename for file in info.siblings or ())
        if label or (choice.models(names) and not any(n.endswith(".safetensors") for n in names)):
            chosen = choice.choose(names, label, repo)
            return Headers(_open_gguf(repo, chosen[0], commit), False, commit)
        config = read_json(Path(huggingface_hub.hf_hub_download(repo, "config.json",
                                                                revision=commit)))  # fmt: skip
        found = huggingface_hub.get_safetensors_metadata(repo, revision=commit)
    tensors: dict[str, Tensor] = {}
    names = sorted(found.files_metadata)
    for number, name in enumerate(names):
        tensors |= _table(found.files_metadata[name], Path(repo) / name, number)
    files = tuple(Path(repo) / name for name in names)
    return Headers(Checkpoint(Path(repo), config, files, tensors), False, commit)


def _open_gguf(repo: str, name: str, commit: str | None) -> Checkpoint:
    headers = splits.read_all(Path(repo) / name, lambda path: _read_head(repo, path, commit))
    return Checkpoint(headers[0].path, **vars(gguf.contents(headers)))


def _read_head(repo: str, path: Path, commit: str | None) -> Header:
    """The head of a file on the hub, in a few requests of ranges."""
    import huggingface_hub

    utils = import_module("huggingface_hub.utils")
    url = huggingface_hub.hf_hub_url(repo, path.relative_to(repo).as_posix(), revision=commit)
    size = huggingface_hub.get_hf_file_metadata(url).size or 0
    asker, headers = utils.get_session(), utils.build_hf_headers()

    def read(offset: int, count: int) -> bytes:
        ranged = headers | {"range": f"bytes={offset}-{offset + count - 1}"}
        with _asked(asker, url, {"headers": ranged, "timeout": TIMEOUT_S}) as answer:
            utils.hf_raise_for_status(answer)
            if answer.status_code != 206 and count < size:
                raise DownloadError(f"[remote] expected status 206, of a part of {path}, found "
                                    f"{answer.status_code}")  # fmt: skip
            return _first(answer, count)

    return parse(read, size, path)


def _asked(asker: Any, url: str, more: dict[str, Any]) -> Any:
    """An answer whose body is not read yet, of httpx or, in older hub libraries, of requests."""
    if callable(asker.stream):
        return asker.stream("GET", url, **more)
    return asker.get(url, stream=True, **more)


def _first(answer: Any, count: int) -> bytes:
    """The first bytes of a body, however long it is."""
    chunks = answer.iter_bytes if hasattr(answer, "iter_bytes") else answer.iter_content
    found = b""
    for chunk in chunks(PART):
        found += chunk
        if len(found) >= count:
            break
    return found[:count]


def _table(file: Any, path: Path, number: int) -> dict[str, Tensor]:
    header: dict[str, Any] = {
        name: {"dtype": str(info.dtype), "shape": list(info.shape),
               "data_offsets": list(info.data_offsets)}
        for name, info in file.tensors.items()
    }  # fmt: skip
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    stored, _ = parse_header(header, 0, end, path, number)
    return packed.expand(stored, dict(file.metadata or {}), path)
