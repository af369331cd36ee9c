"""The keys of a GGUF file's architecture, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import show
from ..safetensors_header import fail

MAX_LAYERS = 1 << 12  # of which an array can tell


class Keys:
    """The keys of a file's architecture."""

    def __init__(self, metadata: dict[str, Any], path: Path) -> None:
        self._metadata, self._path = metadata, path
        kind = metadata.get("general.type", "model")
        if kind != "model":
            raise self.bad(f"expected general.type 'model', found {show(kind)}: it is no language "
                           "model but goes with one")  # fmt: skip
        self.name = metadata.get("general.architecture")

    def bad(self, what: str) -> Exception:
        """Builds a FormatError that names the file."""
        return fail("gguf", what, self._path)

    def get(self, key: str) -> Any:
        """A key's value; None where there is none. Of an array for all layers their one value."""
        value = self._metadata.get(f"{self.name}.{key}")
        if not isinstance(value, np.ndarray):
            return value
        if len(value) > MAX_LAYERS:
            raise self.bad(f"expected at most {MAX_LAYERS} values in {self.name}.{key}, found "
                           f"{len(value)}")  # fmt: skip
        different = sorted({item for item in value.tolist() if item})
        if len(different) > 1 or not len(value):
            raise self.bad(f"expected one {self.name}.{key} for all layers, found "
                           f"{show(different)}")  # fmt: skip
        return different[0] if different else 0

    def array(self, key: str) -> list[Any] | None:
        """An array of numbers or truth values."""
        value = self._metadata.get(f"{self.name}.{key}")
        return value[:MAX_LAYERS].tolist() if isinstance(value, np.ndarray) else None

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.bad(f"expected a whole number for {self.name}.{key}, found {show(value)}")
        return value

    @property
    def n_layers(self) -> int:
        """Those that predict the next token: the others, which predict further ones, are last."""
        n_all, n_further = self.count("block_count"), self.count("nextn_predict_layers", 0)
        if n_further >= n_all:
            raise self.bad(f"expected layers, found {n_all} of which {n_further} predict further "
                           "tokens")  # fmt: skip
        return n_all - n_further
