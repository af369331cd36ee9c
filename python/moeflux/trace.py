"""Routing traces: which experts a text used, in a file that other tools can read.

A trace is an npz file; docs/research.md has its schema. `TraceWriter` collects what steps captured,
`read_trace` gives it back, checked.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, IoError, SessionError

SCHEMA = "moeflux-trace/1"
LIMIT_BYTES = 8 << 30  # uncompressed; a guard against files that unpack to more than memory
# Optional arrays: what their axes are after the tokens, by name.
_OPTIONAL = {"tokens": (), "expert_weights": ("layers", "top_k"), "router": ("layers", "experts"),
             "hidden": ("states", "d_model")}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trace:
    """What a text's tokens used, row by row. T tokens, L layers, K experts a token, E experts.

    Attributes:
        experts: int32 (T, L, K), ascending; all -1 in dense layers.
        n_experts: E.
        starts: int64, the rows at which sequences begin, ascending from 0.
        arrays: what else was captured: "tokens" int32 (T,), "expert_weights" float32 (T, L, K),
            "router" float32 (T, L, E), "hidden" float32 (T, L + 1, d_model).
        info: free text about the model and the text.
    """

    experts: NDArray[np.int32]
    n_experts: int
    starts: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        tokens, layers, top_k = self.experts.shape
        return (f"<Trace of {tokens} tokens in {len(self.starts)} sequences, {layers} layers, "
                f"{top_k} of {self.n_experts} experts, with {sorted(self.arrays)}>")  # fmt: skip

    def sequences(self) -> Iterator[slice]:
        """The rows of each sequence."""
        ends = [*self.starts[1:].tolist(), len(self.experts)]
        for begin, end in zip(self.starts.tolist(), ends, strict=True):
            yield slice(begin, end)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file whole or not at all. Raises IoError."""
        narrow = np.int16 if self.n_experts <= 2**15 else np.int32
        content: dict[str, Any] = {
            "schema": np.array(SCHEMA),
            "experts": self.experts.astype(narrow),
            "n_experts": np.uint32(self.n_experts),
            "starts": self.starts,
            "info": np.array(json.dumps(self.info)),
        }
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as stream:
                np.savez_compressed(stream, **(self.arrays | content))
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise IoError(f"[trace] cannot write: {error}") from None


class TraceWriter:
    """Collects captures into a Trace; they stay in memory, outside the model's budget.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> writer, session = TraceWriter(n_experts=40), model.session()
        >>> for tokens in ([1, 2, 3], [4]):
        ...     writer.add(tokens, session.step(tokens, capture={"experts"}))
        >>> writer.trace().experts.shape
        (4, 8, 4)
    """

    def __init__(self, n_experts: int, info: Mapping[str, str] | None = None) -> None:
        self._n_experts = n_experts
        self._info = dict(info or {})
        self._starts: list[int] = [0]
        self._rows = 0
        self._parts: list[dict[str, NDArray[Any]]] = []

    def begin(self) -> None:
        """The rows that follow are of another sequence."""
        if self._starts[-1] != self._rows:
            self._starts.append(self._rows)

    def add(self, tokens: Any, captured: Mapping[str, NDArray[Any]]) -> None:
        """Adds a step's tokens and what it captured: "experts" at least, the same every time."""
        part = {name: captured[name] for name in ("experts", *_OPTIONAL) if name in captured}
        part["tokens"] = np.asarray(tokens, np.int32).reshape(-1)
        if "experts" not in part:
            raise SessionError('[trace] expected a step with capture={"experts"}')
        if self._parts and part.keys() != self._parts[0].keys():
            raise SessionError(f"[trace] expected {sorted(self._parts[0])}, found {sorted(part)}")
        if any(len(array) != len(part["experts"]) for array in part.values()):
            raise SessionError(f"[trace] {len(part['tokens'])} tokens do not fit what was captured "
                               f"of {len(part['experts'])}")  # fmt: skip
        self._parts.append(part)
        self._rows += len(part["experts"])

    def trace(self) -> Trace:
        """All that was added. Raises SessionError when that is nothing."""
        if not self._parts:
            raise SessionError("[trace] nothing was added")
        names = self._parts[0].keys()
        arrays = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
        starts = [start for start in self._starts if start < self._rows]
        return Trace(arrays.pop("experts"), self._n_experts, np.array(starts), arrays, self._info)


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads a trace file.

    A file needs `experts` and `n_experts`; without `starts` it is one sequence. Experts of a token
    may come in any order; they and their weights are sorted.

    Raises:
        IoError: the file cannot be read.
        FormatError: it is no trace, or its arrays do not fit each other.
    """
    try:
        data = io.BytesIO(Path(path).read_bytes())
    except OSError as error:
        raise IoError(f"[trace] cannot read: {error}") from None
    try:
        with zipfile.ZipFile(data) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > LIMIT_BYTES:
            raise FormatError(f"[trace] expected at most {LIMIT_BYTES} bytes, found {unpacked} "
                              f"({path})")  # fmt: skip
        with np.load(data, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except FormatError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
        raise FormatError(f"[trace] expected an npz file of arrays: {error} ({path})") from None
    return _checked(found, str(path))


def _require(condition: bool, expected: str, array: NDArray[Any], path: str) -> None:
    if not condition:
        raise FormatError(f"[trace] expected {expected}, found {array.dtype} {array.shape} "
                          f"({path})")  # fmt: skip


def _checked_experts(
    found: dict[str, NDArray[Any]], path: str
) -> tuple[NDArray[np.int64], NDArray[np.intp], int]:
    """The experts, ascending for each token and layer, their order in the file, and n_experts."""
    for name in ("experts", "n_experts"):
        if name not in found:
            raise FormatError(f"[trace] expected an array {name!r}, found {sorted(found)} ({path})")
    schema = str(found.get("schema", SCHEMA))
    if schema != SCHEMA:
        raise FormatError(f"[trace] expected schema {SCHEMA}, found {schema!r} ({path})")
    experts, count = found["experts"], found["n_experts"]
    _require(np.issubdtype(experts.dtype, np.integer) and experts.ndim == 3 and experts.size > 0,
             "integer experts (tokens, layers, top_k)", experts, path)  # fmt: skip
    _require(np.issubdtype(count.dtype, np.integer) and count.ndim == 0, "a number n_experts",
             count, path)  # fmt: skip
    n_experts = int(count)
    experts = experts.astype(np.int64)
    if experts.min() < -1 or experts.max() >= n_experts:
        raise FormatError(f"[trace] expected experts of -1..{n_experts - 1}, found "
                          f"{experts.min()}..{experts.max()} ({path})")  # fmt: skip
    order = np.argsort(experts, axis=-1, kind="stable")
    experts = np.take_along_axis(experts, order, -1)
    twice = (np.diff(experts, axis=-1) == 0) & (experts[..., 1:] >= 0)
    mixed = (experts[..., 0] < 0) & (experts[..., -1] >= 0)
    if twice.any() or mixed.any():
        raise FormatError(f"[trace] expected different experts, or -1 in all places, a token and "
                          f"layer ({path})")  # fmt: skip
    return experts, order, n_experts


def _checked(found: dict[str, NDArray[Any]], path: str) -> Trace:
    experts, order, n_experts = _checked_experts(found, path)
    axes = {"layers": experts.shape[1], "top_k": experts.shape[2], "experts": n_experts,
            "states": experts.shape[1] + 1}  # fmt: skip
    arrays = {name: found[name] for name in _OPTIONAL if name in found}
    for name, array in arrays.items():
        kind = np.integer if name == "tokens" else np.floating
        shape = (len(experts), *(axes.get(axis) for axis in _OPTIONAL[name]))
        fits = len(shape) == array.ndim and all(
            want in (None, size) for want, size in zip(shape, array.shape, strict=True)
        )
        _require(np.issubdtype(array.dtype, kind) and fits, f"{name} {shape}", array, path)
    if "expert_weights" in arrays:
        arrays["expert_weights"] = np.take_along_axis(arrays["expert_weights"], order, -1)

    starts = found.get("starts", np.zeros(1, np.int64))
    _require(np.issubdtype(starts.dtype, np.integer) and starts.ndim == 1 and starts.size > 0,
             "integer starts (sequences,)", starts, path)  # fmt: skip
    starts = starts.astype(np.int64)
    if starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= len(experts):
        raise FormatError(f"[trace] expected starts that ascend from 0 below {len(experts)} "
                          f"({path})")  # fmt: skip
    try:
        info = json.loads(str(found.get("info", "{}")))
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise FormatError(f"[trace] expected info as a JSON object ({path})")
    info = {str(key): str(value) for key, value in info.items()}
    return Trace(experts.astype(np.int32), n_experts, starts, arrays, info)
