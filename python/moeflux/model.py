"""`load`, `Model` and `Session`: the thin Python side of the native engine."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from . import _core, hub
from .checkpoint import open_checkpoint
from .errors import FormatError, SessionError
from .families import build_spec
from .memory import budget_bytes
from .tokenizer import Tokenizer

PRECISIONS = ("float32", "bfloat16", "int8")
CAPTURES = ("router", "experts", "hidden")
READ_THREADS = 8  # a pread pool of this depth reaches an NVMe drive's rate (design measurements)


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    memory: str | int = "auto",
    context: int = 8192,
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    max_slots: int | None = None,
    direct_io: bool = True,
    revision: str | None = None,
) -> Model:
    """Opens a checkpoint: dense weights are read into memory, experts stay on disk.

    Args:
        path: a folder, a hub id "owner/name", or None for the demo model.
        memory: bound on all that the model makes the process hold: "auto", "12GiB" or bytes.
        context: tokens a session can hold; its KV cache is booked in full.
        device: "auto" or "cpu"; other devices are not built yet.
        precision: of products with weights: "float32", "bfloat16" (16-bit activations) or "int8"
            (8-bit activations, one scale a group). docs/precision.md has what each costs.
        threads: compute threads; None takes the machine's cores. Changes no result.
        max_slots: at most this many experts in memory. Changes no result.
        direct_io: read past the page cache where the file system allows it.
        revision: of a hub id.

    Returns:
        A Model.

    Raises:
        FormatError: the checkpoint or an argument is not what it must be.
        IoError: a file cannot be read.
        MemoryBudgetError: `memory` is too little; the message says what would do.

    Example:
        >>> model = load(memory="24MiB", context=512)
        >>> model.session().step([1, 2, 3]).shape == (model.vocab_size,)
        True
    """
    if device not in ("auto", "cpu"):
        raise FormatError(f"[load] expected device auto or cpu, found {device!r}")
    if precision not in PRECISIONS:
        raise FormatError(f"[load] expected precision {PRECISIONS}, found {precision!r}")
    if not 1 <= context <= 1 << 24:
        raise FormatError(f"[load] expected a context of 1..{1 << 24} tokens, found {context}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads if threads is not None else min(cores or 1, 64)
    if not 1 <= threads <= 256:
        raise FormatError(f"[load] expected 1..256 threads, found {threads}")
    folder = hub.resolve(path, revision)
    checkpoint = open_checkpoint(folder)
    spec = build_spec(checkpoint)
    native = _core.load_model(
        spec,
        files=[str(file) for file in checkpoint.files],
        memory_bytes=budget_bytes(memory),
        context=context,
        n_threads=threads,
        read_threads=READ_THREADS,
        max_slots=max_slots or 0,
        direct=direct_io,
        simd=os.environ.get("MOEFLUX_SIMD", ""),
        precision=precision,
    )
    return Model(native, folder, checkpoint.config, spec["vocab"])


class Model:
    """An open model; make sessions from it. Safe to share between threads (calls take turns)."""

    def __init__(
        self, native: _core.NativeModel, folder: Path, config: dict[str, Any], vocab_size: int
    ) -> None:
        self._native = native
        self._vocab_size = vocab_size
        self.path = folder
        self.config = config
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read on first use."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self.path, self.config)
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self._vocab_size

    @property
    def stats(self) -> dict[str, Any]:
        """Counters since load: tokens, steps, hits, misses, evictions, bytes_read (of experts),
        wait_seconds (for reads), compute_seconds, slots, max_slots, slot_bytes, holds_cycle
        (whether one token's experts fit: below it hits are rare), live_bytes,
        peak_bytes, memory_bytes, read_mode ("direct" or "buffered"), simd,
        precision.
        """  # noqa: D205
        return self._native.stats()

    def session(self) -> Session:
        """A new, empty sequence. Raises MemoryBudgetError when its state finds no room."""
        return Session(self._native.session())


class Session:
    """One sequence: its KV cache and recurrent state."""

    def __init__(self, native: _core.NativeSession) -> None:
        self._native = native

    @property
    def position(self) -> int:
        """Tokens held so far."""
        return self._native.position

    @property
    def context(self) -> int:
        """Tokens it can hold."""
        return self._native.context

    def step(
        self,
        tokens: Iterable[int],
        *,
        all_logits: bool = False,
        capture: Iterable[str] | None = None,
    ) -> Any:
        """Appends tokens and computes. It happens whole or not at all: after an error or an
        interrupt the session is as it was.

        Args:
            tokens: one or more token ids.
            all_logits: logits after every token, not the last alone.
            capture: any of "router", "experts", "hidden".

        Returns:
            Logits, float32 (vocab,) or (n, vocab); with `capture` a dict of arrays: "logits";
            "experts" int32 (n, layers, top_k) ascending, -1 in dense layers, and
            "expert_weights"; "router" float32 (n, layers, experts), logits before softmax;
            "hidden" float32 (n, layers + 1, d_model), embedding first.

        Raises:
            SessionError: no tokens, ids out of range, or past the context.
            IoError: an expert could not be read.
        """  # noqa: D205
        ids = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens))
        if ids.size and (not np.issubdtype(ids.dtype, np.integer) or ids.ndim != 1):
            raise SessionError(f"[session] expected token ids, found {ids.dtype} {ids.shape}")
        if ids.size and not (ids.min() >= 0 and ids.max() < 2**32):
            raise SessionError(f"[session] expected token ids, found {ids.min()}..{ids.max()}")
        names = sorted(set(capture or ()))
        for name in names:
            if name not in CAPTURES:
                raise SessionError(f"[session] capture: expected {CAPTURES}, found {name!r}")
        out = self._native.step(ids.astype(np.uint32), all_logits, names)
        return out if names else out["logits"]

    def reset(self) -> None:
        """Forgets everything."""
        self._native.reset()

    def save(self) -> _core.Snapshot:
        """A copy of the state, in memory, within the budget."""
        return self._native.save()

    def restore(self, snapshot: _core.Snapshot) -> None:
        """Returns to a saved state; the only way back, since recurrent state has no history."""
        self._native.restore(snapshot)
