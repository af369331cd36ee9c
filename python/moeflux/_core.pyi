"""Types of the native extension (csrc/bindings)."""

from typing import Any

__version__: str

class Snapshot:
    @property
    def position(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class NativeSession:
    @property
    def position(self) -> int: ...
    @property
    def context(self) -> int: ...
    def step(self, tokens: Any, all_logits: bool, capture: list[str]) -> dict[str, Any]: ...
    def reset(self) -> None: ...
    def save(self) -> Snapshot: ...
    def restore(self, snapshot: Snapshot) -> None: ...

class NativeModel:
    def session(self) -> NativeSession: ...
    def stats(self) -> dict[str, Any]: ...

def load_model(
    spec: dict[str, Any],
    files: list[str],
    memory_bytes: int,
    context: int,
    n_threads: int,
    read_threads: int,
    max_slots: int,
    direct: bool,
    simd: str,
    precision: str,
) -> NativeModel: ...
