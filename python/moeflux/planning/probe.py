"""What this machine does, measured in a few seconds: disk, memory, kernels, a layer's experts.

Each number comes from the code that a model uses: reads go through the expert store (direct,
so many experts at once), weights through the compute kernels. `plan` and `doctor` share it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import _core
from ..device import READ_THREADS, compute, default_threads
from ..durable import existing_parent
from ..errors import IoError
from ..memory import available_bytes
from ..spec import Experts, Moe, Spec, tree
from .rates import DiskRate, KernelRate, LayerRate, Machine
from .steady import Series, steady

BATCHES = (1, 2, 4, 8)  # misses of a layer that are read at once
FILE_BYTES = 256 << 20  # of a probe file: more than a drive's cache keeps of random records
RECORD_BYTES = 2654208  # an expert of qwen3-30b-a3b at 4 bits, where no model is given
FILL_SECONDS = 1.0  # to read experts into the slots of a layer's probe, on top of the next
LAYER_SECONDS = 0.25  # for each number of misses
MEMORY_BYTES = 1 << 30  # well past any last-level cache that one process gets for itself

# macOS: pages of a file that was written through the cache would be read from there.
_NO_CACHE: int | None = getattr(fcntl, "F_NOCACHE", None)

STAGES_OF_EXPERTS = 3  # gate and up together, activation, down (ops/cpu: CpuOps::experts)

# (bytes, file of each expert, offset of each expert)
Range = tuple[int, Sequence[int], Sequence[int]]


def _rate(measured: dict[str, Any]) -> float:
    return float(measured["nbytes"] / measured["seconds"])


def _a_round(measured: dict[str, Any]) -> tuple[float, float]:
    """Seconds and bytes of one."""
    return measured["seconds"] / measured["rounds"], measured["nbytes"] / measured["rounds"]


def read_rates(
    paths: Sequence[bytes],
    layers: Sequence[Sequence[Range]],
    seconds: float = 0.5,
    device: _core.NativeDevice | None = None,
) -> DiskRate:
    """Rates of random experts from existing files, laid out as `layers` says, for `device`.

    Raises:
        IoError: a file cannot be read.
        FormatError: a range lies outside of its file.
    """
    n_experts = sum(len(layer[0][1]) for layer in layers)
    batches = [batch for batch in BATCHES if batch <= n_experts]
    nbytes, mode = dict.fromkeys(batches, 0.0), "direct"

    def measure(rounds: int) -> list[Series]:
        nonlocal mode
        found: list[Series] = [{} for _ in range(rounds)]
        for series in found:
            for batch in batches:
                done = _core.probe_reads(list(paths), [list(layer) for layer in layers], batch,
                                         READ_THREADS, seconds / len(batches) / rounds, True,
                                         device)  # fmt: skip
                series[batch], nbytes[batch] = _a_round(done)
                mode = str(done["mode"])
        return found

    found = steady(measure)
    return DiskRate({n: nbytes[n] / found.seconds[n] for n in batches}, mode, found.spread)


def disk(
    folder: str | os.PathLike[str] | None = None,
    record_bytes: int = RECORD_BYTES,
    seconds: float = 0.5,
) -> DiskRate:
    """Rates of records of a file that is written into `folder` for this and removed again.

    Args:
        folder: on the disk in question; None takes the temporary folder.
        record_bytes: size of one read.
        seconds: time to read for; writing the file comes on top.

    Raises:
        IoError: the file cannot be written or read.
    """
    record = -(-record_bytes // 16384) * 16384
    count = max(FILE_BYTES // record, max(BATCHES))
    with _probe_file(folder, count * record) as name:
        layer = [(record, [0] * count, [record * index for index in range(count)])]
        return read_rates([name], [layer], seconds)


@contextmanager
def _probe_file(folder: str | os.PathLike[str] | None, nbytes: int) -> Iterator[bytes]:
    """A file of noise that no cache holds, for as long as the block runs.

    Every number in it is finite and of ordinary size, whatever its type: arithmetic with others
    takes longer on some machines.
    """
    block = os.urandom(1 << 20).translate(bytes(byte & 0x3F for byte in range(256)))
    try:
        with tempfile.NamedTemporaryFile(prefix="moeflux-probe-", dir=folder) as file:
            if _NO_CACHE is not None:
                fcntl.fcntl(file, _NO_CACHE, 1)
            for _ in range(-(-nbytes // len(block))):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            yield os.fsencode(file.name)
    except OSError as error:
        if isinstance(error, IoError):
            raise
        where = folder or tempfile.gettempdir()
        raise IoError(f"[probe] cannot write a probe file: {error.strerror} ({where})") from error


def memory(threads: int | None = None, seconds: float = 0.3) -> float:
    """Bytes/s that `threads` threads read from memory."""
    nbytes = min(MEMORY_BYTES, max(available_bytes() // 4, 1 << 20))
    return _rate(_core.probe_memory(nbytes, threads or default_threads(), seconds))


def kernels(
    d_model: int = 2048,
    d_ff: int = 768,
    format: str = "affine4",
    group: int = 64,
    dtype: str = "BF16",
    top_k: int = 8,
    threads: int | None = None,
    seconds: float = 0.3,
    device: _core.NativeDevice | None = None,
    precision: str = "float32",
) -> KernelRate:
    """What the expert kernels get through, one token at a time: from one and from `top_k` experts.

    Args:
        d_model: width of the model.
        d_ff: width of an expert.
        format: of the weights.
        group: columns that share a scale.
        dtype: of the weights' floats.
        top_k: experts of a token in a layer.
        threads: compute threads.
        seconds: time to compute for; preparing weights comes on top.
        device: whose kernels; None is the CPU.
        precision: of the products.
    """
    nbytes = min(MEMORY_BYTES, max(available_bytes() // 4, 1 << 20))

    how = compute(threads or default_threads(), precision, device)
    expert_bytes = 0.0

    def layer(n_experts: int) -> float:
        """Seconds of so many experts."""
        nonlocal expert_bytes
        done = _core.probe_experts(
            d_model=d_model, d_ff=d_ff, format=format, group=group, dtype=dtype,
            top_k=n_experts, nbytes=nbytes, seconds=seconds / 2, compute=how,
        )  # fmt: skip
        time, moved = _a_round(done)
        expert_bytes = moved / n_experts
        return time

    many = max(top_k, 2)
    # Once, unless one and many contradict each other: the probe has several windows of its own.
    found = steady(lambda rounds: [{n: layer(n) for n in (1, many)} for _ in range(rounds)], 1)
    rate = kernel_rate((expert_bytes, found.seconds[1]), (many * expert_bytes, found.seconds[many]))
    return replace(rate, spread=found.spread)


def kernel_rate(one: tuple[float, float], many: tuple[float, float]) -> KernelRate:
    """The line through (bytes, seconds) of one expert and of many, computed together."""
    rate = (many[0] - one[0]) / max(many[1] - one[1], 1e-12)
    # Noise can turn the line about: a rate is never above that of `many` by more than its overhead.
    rate = min(rate, 2 * many[0] / many[1])
    stage = (many[1] - many[0] / rate) / STAGES_OF_EXPERTS
    return KernelRate(rate, max(stage, 0.0))


def machine(
    spec: Spec,
    files: Sequence[Path],
    slot_bytes: int,
    threads: int,
    folder: Path | None = None,
    device: _core.NativeDevice | None = None,
    precision: str = "float32",
) -> Machine:
    """Rates for one model: of its own files where they are here, else of a file like them.

    Args:
        spec: of the model.
        files: its weights, or empty when they are not on this machine.
        slot_bytes: one expert in memory.
        threads: compute threads.
        folder: measure the disk of this folder instead.
        device: whose kernels; None is the CPU.
        precision: of the products.

    Raises:
        IoError: the disk cannot be read, or the probe file not be written.
    """
    how: dict[str, Any] = {"threads": threads, "device": device, "precision": precision}
    if not spec.moes:
        return Machine(disk(folder or models_folder(), RECORD_BYTES), memory(threads),
                       kernels(**how), threads)  # fmt: skip
    moe = spec.moes[0]
    experts, gate = moe.experts, moe.experts.gate
    shape: dict[str, Any] = {
        "d_model": gate.columns, "d_ff": experts.down.columns, "format": gate.format,
        "group": gate.group, "dtype": gate.dtype, "top_k": moe.top_k,
    }  # fmt: skip
    with ExitStack() as stack:
        if files and folder is None:
            paths = [os.fsencode(file) for file in files]
            # Layers of other widths or bits than the first are left out: one shape is measured.
            ranges = [ranges_of(other.experts) for other in spec.moes
                      if _form(other.experts) == _form(experts)]  # fmt: skip
        else:  # records of the first layer's experts, as `pack` would write them
            record = experts.record_bytes
            count = max(FILE_BYTES // record, 2 * max(*BATCHES, moe.top_k))
            paths = [stack.enter_context(_probe_file(folder or models_folder(), count * record))]
            ranges = [[(part.nbytes, [0] * count, [i * record + part.offset for i in range(count)])
                       for part in experts.parts]]  # fmt: skip
        drive = read_rates(paths, ranges, device=device)
        # Past the caches, if the disk fills so much in time.
        hot = min(MEMORY_BYTES, available_bytes() // 4, int(drive.best * FILL_SECONDS))
        return Machine(
            drive, memory(threads), kernels(**shape, **how), threads,
            _layer_rate(paths, ranges, moe, hot // slot_bytes, **how),
        )  # fmt: skip


def _form(experts: Experts) -> list[tuple[Any, ...]]:
    return [(part.dtype, part.shape, part.offset) for part in experts.parts]


def ranges_of(experts: Experts) -> list[Range]:
    """What the native probes read: (bytes, files, offsets) of each part of a layer's experts."""
    return [(place.nbytes, list(place.files), list(place.offsets))
            for place in experts.parts.values()]  # fmt: skip


def _layer_rate(
    paths: Sequence[bytes],
    layers: Sequence[Sequence[Range]],
    moe: Moe,
    n_slots: int,
    threads: int,
    device: _core.NativeDevice | None,
    precision: str,
) -> LayerRate:
    n_experts, top_k = sum(len(layer[0][2]) for layer in layers), moe.top_k
    n_slots = max(top_k, min(n_slots, n_experts - top_k))
    misses = sorted({0, top_k, *(n for n in BATCHES if n < top_k)})
    misses = [n for n in misses if n_slots + n <= n_experts]

    def measure(rounds: int) -> list[Series]:
        done = _core.probe_layer(
            paths=list(paths), layers=[list(layer) for layer in layers],
            experts=tree(moe.experts), compute=compute(threads, precision, device),
            top_k=top_k, misses=misses * rounds, n_slots=n_slots, read_threads=READ_THREADS,
            seconds=LAYER_SECONDS / rounds,
        )  # fmt: skip
        times = [_a_round(rate)[0] for rate in done]
        return [dict(zip(misses, times[i:], strict=False))
                for i in range(0, len(times), len(misses))]  # fmt: skip

    found = steady(measure)
    return LayerRate(found.seconds, found.spread)


def models_folder() -> Path:
    """Where the hub's client keeps models, or the nearest folder above that exists: its disk."""
    from huggingface_hub import constants

    return existing_parent(Path(constants.HF_HUB_CACHE))
