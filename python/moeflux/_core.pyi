"""Types of the native extension (csrc/bindings)."""

from collections.abc import Sequence
from typing import Any, overload

__version__: str
READ_THREADS: int

class Binding:
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...  # "f32", "f16", "bf16", "u32", "i32", "u8"
    @property
    def scalar(self) -> bool: ...
    @property
    def writable(self) -> bool: ...

class KernelInfo:
    @property
    def name(self) -> str: ...
    @property
    def file(self) -> str: ...  # of shaders/
    @property
    def contract(self) -> bool: ...
    @property
    def bindings(self) -> tuple[Binding, ...]: ...
    @property
    def constants(self) -> dict[str, int]: ...  # defaults

def kernel_table() -> list[KernelInfo]: ...
def device_kinds() -> dict[str, bool]: ...  # whether it is a GPU; the preferred one first

class Eviction:
    """The store's rule (csrc/store/eviction.h), for simulations: one group."""

    RULE: tuple[float, float]  # use_worth, half_life
    def __init__(self, n_keys: int, use_worth: float = ..., half_life: float = ...) -> None: ...
    def touch(self, key: int, n_slots: int, sweep: bool = False) -> None: ...
    def park(self, key: int) -> None: ...
    def unpark(self, key: int) -> None: ...
    def evict(self) -> int | None: ...

class NativeDevice:
    def __init__(self, kind: str) -> None: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> dict[str, Any]: ...
    @property
    def pipeline_count(self) -> int: ...
    def untold_threads(self, kernel: str) -> int: ...
    def pipeline(self, kernel: str, constants: list[tuple[str, int]]) -> NativePipeline: ...
    def compile(self, source: str) -> NativeLibrary: ...
    def begin_capture(self, path: str) -> None: ...
    def end_capture(self) -> None: ...

class NativeLibrary:
    def pipeline(self, kernel: str) -> NativePipeline: ...

class NativePipeline:
    @property
    def constants(self) -> dict[str, int]: ...
    @property
    def max_threads(self) -> int: ...

class NativeBuffer:
    @overload
    def __init__(self, device: NativeDevice, nbytes: int) -> None: ...
    @overload
    def __init__(self, device: NativeDevice, memory: Any) -> None: ...
    def wait(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class NativeCommands:
    def __init__(self, device: NativeDevice) -> None: ...
    def dispatch(
        self,
        pipeline: NativePipeline,
        args: list[
            NativeBuffer | list[NativeBuffer | None] | tuple[NativeBuffer, int, int] | int | None
        ],
        grid: tuple[int, int, int] | None,
        threadgroup: tuple[int, int, int] | None,
    ) -> None: ...
    def commit(self) -> None: ...
    def wait(self) -> None: ...
    @property
    def committed(self) -> bool: ...
    @property
    def done(self) -> bool: ...
    @property
    def gpu_seconds(self) -> float: ...

class NativeSnapshot:
    @property
    def position(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def extents(self) -> dict[int, int]: ...  # bytes of those shared, by a mark while they live
    @property
    def model(self) -> NativeModel: ...
    def read(self, begin: int, to: Any) -> None: ...  # fills a buffer

class NativeDraft:
    def __init__(self, model: NativeModel, positions: int) -> None: ...
    def write(self, begin: int, data: Any) -> None: ...
    def done(self) -> NativeSnapshot: ...

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
    @property
    def taken_back(self) -> int: ...  # tokens stepped that can always be truncated; context: all
    def least_tokens(self) -> int: ...  # that it can be truncated to now
    def bytes(self, positions: int) -> int: ...
    def reset(self) -> None: ...
    def fork(self) -> NativeSession: ...
    def truncate(self, n_tokens: int) -> None: ...
    def save(self) -> NativeSnapshot: ...
    def restore(self, snapshot: NativeSnapshot) -> None: ...

class NativeModel:
    def session(self) -> NativeSession: ...
    def step_batch(
        self,
        items: list[Any],
        logits: str,  # "none", "last" or "all"
        capture: list[str],
        aborts_before: int | None = None,
        samples: list[tuple[NativeSampler, float, Any] | None] | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]: ...
    def abort(self) -> None: ...
    def ring_next(self, bell: int) -> int: ...  # what was not rung of before, -1 for none
    @property
    def aborts(self) -> int: ...
    def score(
        self, item: tuple[Any, ...], top: int, following: int | None
    ) -> tuple[Any, Any, Any, Any, Any]: ...
    def routing(
        self, top_k: int, mask: Any, forced: Any, repeat: bool, name: str, and_session: bool
    ) -> NativeRouting: ...
    def experts(self) -> list[tuple[int, int]]: ...
    @property
    def rows(self) -> int: ...
    def free_bytes(self) -> int: ...
    def least_bytes(self) -> int: ...
    def set_memory(self, nbytes: int) -> None: ...
    # "extent" and "block" (positions), "layers" (bytes of a block of keys, bytes of a state),
    # "nbytes" (of what NativeSnapshot.read has), "context", "vocab".
    def snapshot_form(self, positions: int) -> dict[str, Any]: ...
    def stats(self) -> dict[str, Any]: ...

class NativeSampler:
    def __init__(
        self,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        bias: list[tuple[int, float]],
        ends: Any,
        min_tokens: int,
        top_logprobs: int | None,
        seen: Any,
    ) -> None: ...
    def take(self, token: int) -> None: ...

# Of a sample (sampler, uniform, mask): "token", "logprob" and "top"; ids and weights of a draw.
def choose(logits: Any, sample: tuple[NativeSampler, float, Any]) -> dict[str, Any]: ...
def distribution(logits: Any, sample: tuple[NativeSampler, float, Any]) -> tuple[Any, Any]: ...

class Compute:
    def __init__(
        self,
        *,
        n_threads: int,
        simd: str = "",
        precision: str = "float32",
        device: NativeDevice | None = None,
        kv: str = "",
    ) -> None: ...
    @property
    def precision(self) -> str: ...

def decode(format: str, columns: int, blocks: bytes) -> Any: ...  # (rows, columns) f32, of blocks
def decode_planes(
    format: str, columns: int, group: int, dtype: str, tensors: list[Any]
) -> Any: ...  # the same, of the bytes of each tensor; scales for several rows once for each
def formats() -> list[tuple[str, int, list[int], bool, bool]]: ...  # fields of formats.Format
def quantize(values: Any, bits: int, group: int) -> tuple[Any, Any, Any]: ...  # stream, s, b
def transcode(format: str, blocks: bytes, planes: Any) -> None: ...  # planes: uint8, as many
def tensors(
    format: str, columns: int, group: int, dtype: str
) -> list[tuple[str, str, int, int]]: ...  # name, dtype, elements a row, rows of each

class Options:
    def __init__(
        self,
        *,
        context: int,
        read_threads: int,
        read_ahead: bool,
        max_slots: int = 0,
        rows: int = 0,
    ) -> None: ...

def load_model(
    *,
    spec: dict[str, Any],
    files: list[bytes],
    memory_bytes: int,
    direct: bool,
    compute: Compute,
    options: Options,
) -> NativeModel: ...
def measure_model(
    *, spec: dict[str, Any], file_bytes: list[int], compute: Compute, options: Options
) -> dict[str, Any]: ...
def refusal(
    *, spec: dict[str, Any], file_bytes: list[int], compute: Compute, options: Options
) -> str | None: ...
def library_source() -> str: ...
def make_plan(
    *,
    memory_bytes: int,
    resident_bytes: int,
    scratch_bytes: int,
    session_bytes: int,
    classes: Sequence[tuple[int, int, int]],  # slot_bytes, n_experts, n_layers
    top_k: int,
    chunk: int,
    rows: int,
    wider: Sequence[tuple[int, int]],  # rows, nbytes
) -> dict[str, Any]: ...
def probe_reads(
    paths: list[bytes],
    layers: list[list[Any]],
    batch: int,
    read_threads: int,
    seconds: float,
    direct: bool,
    device: NativeDevice | None,
) -> dict[str, Any]: ...
def probe_layer(
    *,
    paths: list[bytes],
    layers: list[list[Any]],
    experts: dict[str, Any],
    compute: Compute,
    top_k: int,
    misses: list[int],
    n_slots: int,
    read_threads: int,
    seconds: float,
) -> list[dict[str, Any]]: ...
def probe_memory(nbytes: int, n_threads: int, seconds: float) -> dict[str, Any]: ...
def probe_experts(
    *,
    d_model: int,
    d_ff: int,
    format: str,
    group: int,
    dtype: str,
    top_k: int,
    nbytes: int,
    seconds: float,
    compute: Compute,
) -> dict[str, Any]: ...
