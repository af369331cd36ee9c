"""The keys of a GGUF file's architecture, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import TEXT, Rule, is_integer, show
from ..safetensors_header import fail

MAX_LAYERS = 1 << 12  # of which an array can tell
WHOLE = Rule("a whole number", lambda value: is_integer(value) and value >= 0)
# Keys of which 0 says that a layer has none of it.
_NONE_IS_ZERO = frozenset((
    "attention.head_count", "attention.head_count_kv", "feed_forward_length",
))  # fmt: skip


def scalar(
    metadata: Mapping[str, Any], key: str, rule: Rule, path: Path, default: Any = None,
    tag: str = "gguf",
) -> Any:  # fmt: skip
    """The one value of a key that holds no array; `default` where the key is missing.

    Raises:
        FormatError: it is not what the rule says.
    """
    value = metadata.get(key)
    if value is None:
        return default
    if not rule.fits(value):
        raise fail(tag, f"expected {rule.expected} in {key}, found {show(value)}", path)
    return value


class Keys:
    """The keys of a file's architecture."""

    def __init__(self, metadata: dict[str, Any], path: Path) -> None:
        self._metadata, self._path = metadata, path
        self._found: dict[str, Any] = {}
        kind = scalar(metadata, "general.type", TEXT, path, "model")
        if kind != "model":
            raise self.bad(f"expected general.type 'model', found {show(kind)}: it is no language "
                           "model but goes with one")  # fmt: skip
        self.name = scalar(metadata, "general.architecture", TEXT, path)

    def bad(self, what: str) -> Exception:
        """Builds a FormatError that names the file."""
        return fail("gguf", what, self._path)

    def get(self, key: str) -> Any:
        """A key's value; None where there is none. Of an array for all layers their one value."""
        if key not in self._found:  # tensors ask for the same ones again and again
            self._found[key] = self._one(key)
        return self._found[key]

    def _one(self, key: str) -> Any:
        value = self._metadata.get(f"{self.name}.{key}")
        if isinstance(value, list):
            raise self.bad(f"expected one value in {self.name}.{key}, found {show(value)}")
        if not isinstance(value, np.ndarray):
            return value
        if len(value) > MAX_LAYERS:
            raise self.bad(f"expected at most {MAX_LAYERS} values in {self.name}.{key}, found "
                           f"{len(value)}")  # fmt: skip
        different = sorted({item for item in value.tolist() if item or key not in _NONE_IS_ZERO})
        if len(different) > 1 or not len(value):
            raise self.bad(f"expected one {self.name}.{key} for all layers, found "
                           f"{show(different)}")  # fmt: skip
        return different[0] if different else 0

    def array(self, key: str) -> list[Any] | None:
        """An array of numbers or truth values."""
        value = self._metadata.get(f"{self.name}.{key}")
        if value is not None and not isinstance(value, np.ndarray):
            raise self.bad(f"expected an array in {self.name}.{key}, found {show(value)}")
        return None if value is None else value[:MAX_LAYERS].tolist()

    def array_or_one(self, key: str) -> Any:
        """The array of a key that may hold one; else its value, or None."""
        value = self._metadata.get(f"{self.name}.{key}")
        return self.array(key) if isinstance(value, np.ndarray) else value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        found = self.get(key)
        value: Any = default if found is None else found
        if not WHOLE.fits(value):
            raise self.bad(f"expected {WHOLE.expected} for {self.name}.{key}, found {show(value)}")
        return int(value)

    @property
    def n_layers(self) -> int:
        """Those that predict the next token: the others, which predict further ones, are last."""
        n_all, n_further = self.count("block_count"), self.count("nextn_predict_layers", 0)
        if n_further >= n_all:
            raise self.bad(f"expected layers, found {n_all} of which {n_further} predict further "
                           "tokens")  # fmt: skip
        return n_all - n_further
