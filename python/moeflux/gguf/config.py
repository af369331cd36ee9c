"""A config, as config.json would have it, from GGUF's keys."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import show
from ..safetensors_header import fail
from .archs import ARCHS, ONE_WAY, Arch

# What YaRN's settings are called in a config.
_YARN = {"factor": "factor", "original_context_length": "original_max_position_embeddings",
         "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}  # fmt: skip


class Keys:
    """The keys of a file's architecture."""

    def __init__(self, metadata: dict[str, Any], path: Path) -> None:
        self._metadata, self._path = metadata, path
        kind = metadata.get("general.type", "model")
        if kind != "model":
            raise self.bad(f"expected general.type 'model', found {show(kind)}: it is no language "
                           "model but goes with one")  # fmt: skip
        self.name = metadata.get("general.architecture")
        if not isinstance(self.name, str) or self.name not in ARCHS:
            known = ", ".join(sorted(ARCHS))
            raise self.bad(f"unknown general.architecture {show(self.name)}: expected one of "
                           f"{known}")  # fmt: skip
        self.arch: Arch = ARCHS[self.name]

    def bad(self, what: str) -> Exception:
        """Builds a FormatError that names the file."""
        return fail("gguf", what, self._path)

    def get(self, key: str) -> Any:
        """A key's value; None where there is none. Of an array for all layers their one value."""
        value = self._metadata.get(f"{self.name}.{key}")
        if not isinstance(value, np.ndarray):
            return value
        different = sorted({item for item in value.tolist() if item})
        if len(different) > 1 or not len(value):
            raise self.bad(f"expected one {self.name}.{key} for all layers, found "
                           f"{show(different)}")  # fmt: skip
        return different[0] if different else 0

    def array(self, key: str) -> list[Any] | None:
        """An array of numbers or truth values."""
        value = self._metadata.get(f"{self.name}.{key}")
        return value.tolist() if isinstance(value, np.ndarray) else None

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


def config(keys: Keys, names: Collection[str], vocab: int) -> dict[str, Any]:
    """The fields that the architecture's family reads.

    Args:
        keys: of the file.
        names: of its tensors.
        vocab: rows of its embedding.

    Raises:
        FormatError: a key is missing, is no number, or asks for what the engine does not do.
    """
    arch = keys.arch
    for key, accepted in ONE_WAY.items():
        value = keys.get(key)
        if value is not None and value not in accepted:
            raise keys.bad(f"expected {keys.name}.{key} {' or '.join(map(str, accepted))}, found "
                           f"{show(value)}: no other is done")  # fmt: skip
    head_dim = keys.count("attention.key_length", _head_dim(keys))
    if keys.count("attention.value_length", head_dim) != head_dim:
        raise keys.bad(f"expected {keys.name}.attention.value_length {head_dim}, as keys have it, "
                       f"found {keys.get('attention.value_length')}")  # fmt: skip
    rotary = keys.count("rope.dimension_count", head_dim)
    said = {to: value for key, to in arch.fields.items() if (value := keys.get(key)) is not None}
    n_layers = keys.n_layers
    dense = [i for i in range(min(n_layers, len(names)))
             if f"blk.{i}.ffn_gate_inp.weight" not in names]  # fmt: skip
    return {
        "model_type": arch.model_type,
        "vocab_size": vocab,
        "num_hidden_layers": n_layers,
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": any(name.endswith(".attn_q.bias") for name in names),
        "head_dim": head_dim,
        "partial_rotary_factor": rotary / head_dim if head_dim else 1.0,
        **({"mlp_only_layers": dense} if dense else {}),
        **_scaling(keys),
        **arch.says,
        **said,
    }


def _head_dim(keys: Keys) -> int:
    """What the absence of a key means."""
    return keys.count("embedding_length") // max(keys.count("attention.head_count"), 1)


def _scaling(keys: Keys) -> dict[str, Any]:
    """`rope_scaling`, where there is any."""
    kind = keys.get("rope.scaling.type")
    if kind is None or kind == "none":
        return {}
    found = {to: keys.get(f"rope.scaling.{key}") for key, to in _YARN.items()}
    return {"rope_scaling": {"rope_type": kind}
            | {key: value for key, value in found.items() if value is not None}}  # fmt: skip
