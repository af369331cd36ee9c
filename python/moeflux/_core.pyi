"""Types of the native extension (csrc/bindings)."""

from typing import Any

__version__: str

class Snapshot:
    @property
    def position(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

class NativeRouting:
    @property
    def name(self) -> str: ...

class NativeSession:
    @property
    def position(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def model(self) -> NativeModel: ...
    def reset(self) -> None: ...
    def save(self) -> Snapshot: ...
    def restore(self, snapshot: Snapshot) -> None: ...

class NativeModel:
    def session(self) -> NativeSession: ...
    def step_batch(
        self, items: list[Any], all_logits: bool, capture: list[str]
    ) -> list[dict[str, Any]]: ...
    def score(self, item: tuple[Any, ...]) -> tuple[Any, Any]: ...
    def routing(
        self, top_k: int, mask: Any, forced: Any, repeat: bool, name: str
    ) -> NativeRouting: ...
    def experts(self) -> list[tuple[int, int]]: ...
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
) -> NativeModel: ...
def measure_model(
    spec: dict[str, Any], file_bytes: list[int], context: int, n_threads: int, read_threads: int
) -> dict[str, int]: ...
def make_plan(
    memory_bytes: int,
    resident_bytes: int,
    scratch_bytes: int,
    session_bytes: int,
    slot_bytes: int,
    n_experts: int,
    n_layers: int,
    top_k: int,
    max_slots: int,
) -> dict[str, Any]: ...
def probe_reads(
    paths: list[str],
    layers: list[list[Any]],
    batch: int,
    read_threads: int,
    seconds: float,
    direct: bool,
) -> dict[str, Any]: ...
def probe_memory(nbytes: int, n_threads: int, seconds: float) -> dict[str, Any]: ...
def probe_experts(
    d_model: int,
    d_ff: int,
    bits: int,
    group: int,
    top_k: int,
    nbytes: int,
    n_threads: int,
    seconds: float,
    simd: str,
) -> dict[str, Any]: ...
