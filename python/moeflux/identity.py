"""`Identity`: which weights a model has, from its files: what it computed is known again by it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, Tensor, open_checkpoint
from .errors import FormatError, IoError
from .files import regular_file

SAMPLES = 16  # tensors of a kind that are looked into
SAMPLE_BYTES = 64  # from the middle of each


class Identity:
    """The weights of one model. Files are read when somebody asks, if they are still the same.

    Args:
        checkpoint: about to be loaded.

    Raises:
        IoError: a file is missing.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._folder, self._config = checkpoint.path, checkpoint.config
        self._files = {path: _file(path) for path in checkpoint.files}
        self._weights: str | None = None

    @property
    def weights(self) -> str:
        """A hash of the config, of all tensors' names, types and shapes, and of some weights.

        Of tensors whose names differ in numbers alone (a layer's, an expert's) `SAMPLES` are looked
        into: a model that was trained further differs in most of them.

        Raises:
            FormatError, IoError: the checkpoint is no longer what was loaded.
        """
        found = self._weights
        if found is None:
            found = of_weights(open_checkpoint(self._folder), self._config)
        for path, loaded in self._files.items():  # after they were read
            if _file(path) != loaded:
                raise FormatError(
                    f"[identity] expected the file that was loaded, found another, or that it "
                    f"was changed; load the model again ({path})"
                )
        self._weights = found
        return found


def _file(path: Path) -> tuple[int, int, int, int]:
    """What tells a file from others, and from itself once it was written to."""
    try:
        info = path.stat()
    except OSError as error:
        raise IoError(f"[identity] cannot read: {error.strerror} ({path})") from error
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def of_weights(checkpoint: Checkpoint, config: dict[str, Any]) -> str:
    """What `Identity.weights` is, of a checkpoint that is open."""
    found = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    kinds: dict[str, list[Tensor]] = {}
    for tensor in sorted(checkpoint.tensors.values(), key=lambda t: t.name):
        found.update(repr((tensor.name, tensor.dtype, tensor.blocks, tensor.shape)).encode())
        kinds.setdefault(re.sub(r"\d+", "#", tensor.name), []).append(tensor)
    looked = [t for kind in kinds.values() for t in kind[:: -(-len(kind) // SAMPLES)]]
    for number, path in enumerate(checkpoint.files):
        with regular_file(path) as (stream, _):
            for tensor in (t for t in looked if t.file == number):
                nbytes = tensor.nbytes // tensor.shape[0] if tensor.stride else tensor.nbytes
                stream.seek(tensor.offset + max(nbytes - SAMPLE_BYTES, 0) // 2)
                found.update(stream.read(min(SAMPLE_BYTES, nbytes)))
    return found.hexdigest()
