"""What a server says of its model, from the checkpoint's headers and settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import is_dataclass
from typing import Any

from .._version import __version__
from ..checkpoint import open_checkpoint, read_json
from ..errors import MoefluxError
from ..families import build_spec
from ..files import mode
from ..gguf.contents import is_gguf
from ..model import Model
from ..spec import Experts, Shape, Spec, Vector
from .engine import ModelInfo, Sampling

# Of generation_config.json, as `Sampling` calls them.
DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def describe(model: Model, name: str, context: int) -> ModelInfo:
    """What is served.

    Args:
        model: that is served.
        name: that clients call it by.
        context: tokens of its sessions.
    """
    checkpoint = open_checkpoint(model.path)
    spec, stats = build_spec(checkpoint), model.stats
    said = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for tensor in sorted(checkpoint.tensors.values(), key=lambda t: t.name):
        said.update(repr((tensor.name, tensor.dtype, tensor.blocks, tensor.shape)).encode())
    fingerprint = "-".join(
        (__version__, said.hexdigest()[:12], stats["precision"], stats["device"], stats["simd"])
    )
    return ModelInfo(name, context, model.vocab_size, parameters(spec), stats["memory_bytes"],
                     fingerprint, _defaults(model))  # fmt: skip


def parameters(spec: Spec) -> int:
    """Numbers that a model was trained to have, biases and routers too."""
    seen: set[Any] = set()

    def count(node: Any) -> int:
        if isinstance(node, Experts):
            return node.n_experts * sum(m.out * m.columns for m in node.matrices)
        if isinstance(node, Shape | Vector):
            tensor = node.tensor if isinstance(node, Vector) else node.weight  # type: ignore[attr-defined]
            rows = None if isinstance(node, Vector) else str(node.rows)  # type: ignore[attr-defined]
            if (tensor.name, rows) in seen:
                return 0
            seen.add((tensor.name, rows))
            return node.count if isinstance(node, Vector) else node.out * node.columns
        if is_dataclass(node):
            node = list(vars(node).values())
        return sum(map(count, node)) if isinstance(node, list) else 0

    return count(spec)


def _defaults(model: Model) -> dict[str, Any]:
    """Fields of Sampling that the model's files ask for, where they are in their range."""
    if is_gguf(model.path):
        return model.tokenizer.sampling
    path = model.path / "generation_config.json"
    said = read_json(path) if mode(path) else {}
    found: dict[str, Any] = {}
    for name in DEFAULTS:
        if name in said:
            try:
                Sampling(**{name: said[name]}).params(0)
            except MoefluxError:
                continue
            found[name] = said[name]
    if said.get("do_sample") is False:
        found["temperature"] = 0.0
    return found
