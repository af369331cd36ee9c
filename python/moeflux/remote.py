"""A hub checkpoint's config and safetensors headers, without its weights.

A few hundred kilobytes of range requests instead of hundreds of gigabytes: enough for `plan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import packed
from .checkpoint import Checkpoint, read_json
from .errors import DownloadError, FormatError
from .safetensors_header import Tensor, parse_header


def open_remote(repo: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint "owner/name" as its headers describe it; offsets count from the data's begin.

    Raises:
        DownloadError: the hub refused or could not be reached.
        FormatError: headers or config do not say what they must.
    """
    import huggingface_hub

    try:
        config = read_json(Path(huggingface_hub.hf_hub_download(repo, "config.json",
                                                                revision=revision)))  # fmt: skip
        found = huggingface_hub.get_safetensors_metadata(repo, revision=revision)
    except FormatError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise DownloadError(
            f"[remote] cannot read the headers of {repo}{f' at {revision}' if revision else ''}: "
            f"{type(error).__name__}: {reason[0] if reason else ''}"
        ) from error
    tensors: dict[str, Tensor] = {}
    names = sorted(found.files_metadata)
    for number, name in enumerate(names):
        tensors |= _table(found.files_metadata[name], Path(repo) / name, number)
    return Checkpoint(Path(repo), config, tuple(Path(repo) / name for name in names), tensors)


def _table(file: Any, path: Path, number: int) -> dict[str, Tensor]:
    header: dict[str, Any] = {
        name: {"dtype": str(info.dtype), "shape": list(info.shape),
               "data_offsets": list(info.data_offsets)}
        for name, info in file.tensors.items()
    }  # fmt: skip
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    stored, _ = parse_header(header, 0, end, path, number)
    return packed.expand(stored, dict(file.metadata or {}), path)
