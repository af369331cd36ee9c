"""What computes a model: the CPU's own kernels, or the shaders on a device, by name; threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from . import _core
from .arguments import check, one_of, optional
from .checked_devices import has_passed
from .errors import FormatError, MemoryBudgetError, NoDeviceError
from .log import logger
from .memory import budget_bytes

_IS_GPU = _core.device_kinds()
KINDS = tuple(_IS_GPU)  # the preferred one first
GPUS = tuple(kind for kind in KINDS if _IS_GPU[kind])
DEVICES = ("cpu", *KINDS, "auto")
PRECISIONS = ("float32", "bfloat16", "int8")
CACHES = ("float32", "bfloat16", "int8")
RULES = {"device": one_of(DEVICES), "precision": one_of(PRECISIONS), "kv": optional(one_of(CACHES))}
READ_THREADS = _core.READ_THREADS  # that read experts
_THREAD_BYTES = 2 << 20  # of weights that keep a compute thread busy


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return cores or 1


def default_threads(weight_bytes: int | None = None) -> int:
    """Compute threads that `load` takes when it is not told: the usable cores, at most 64.

    Fewer for a small model, which their stacks and buffers would outweigh.
    """
    threads = min(usable_cores(), 64)
    if weight_bytes is None:
        return threads
    return min(threads, max(weight_bytes // _THREAD_BYTES, 4))


def compute(
    threads: int,
    precision: str,
    device: _core.NativeDevice | None = None,
    kv: str | None = None,
) -> _core.Compute:
    """How a model is computed, as the core takes it: on a device, or by the CPU's kernels.

    `kv` is the type of the KV cache, None what the precision gives. The kernels are those of
    the instruction set that MOEFLUX_SIMD names, else the best that this machine runs.
    """
    simd = os.environ.get("MOEFLUX_SIMD", "")
    return _core.Compute(n_threads=threads, simd=simd, precision=precision, device=device,
                          kv=kv or "")  # fmt: skip


def open_device(name: str, *precisions: str) -> _core.NativeDevice | None:
    """The device of that name; None for "cpu", which needs none.

    "auto" is this machine's GPU where it has one that computes at all these precisions and that
    `moeflux doctor` has found right. Else it is the CPU. Whether the GPU computes a model is
    asked of `suited`.

    Raises:
        FormatError: there is no such name.
        NoDeviceError: this machine has no such device; the message says why.
    """
    check("load", FormatError, RULES, {"device": name})
    if name == "auto":
        if set(precisions) - {"float32"}:
            logger.info("device auto: cpu, because others compute at float32 only")
            return None
        return _checked_gpu()
    return None if name == "cpu" else _core.NativeDevice(name)


def _checked_gpu() -> _core.NativeDevice | None:
    try:
        device = first_device(GPUS)
    except NoDeviceError as error:
        # Its text: records are kept by whoever listens, and a traceback keeps the frames of `load`.
        logger.info("device auto: cpu, because %s", str(error))
        return None
    if not has_passed(device):
        why = "has not been checked here: run `moeflux doctor`"
        logger.info("device auto: cpu, because %s (%s) %s", device.kind, device.name, why)
        return None
    logger.info("device auto: %s (%s), which `moeflux doctor` has found right", device.kind,
                device.name)  # fmt: skip
    return device


def suited(
    name: str,
    device: _core.NativeDevice | None,
    spec: dict[str, Any],
    file_bytes: list[int],
    context: int,
    kv: str | None,
) -> _core.NativeDevice | None:
    """What computes a model, `open_device(name)` having given that device: "auto" may be the CPU.

    No weight is read: the core goes through a load from files of those sizes without data. The
    log says why the CPU takes a model that the device cannot compute. `spec` is a tree.

    Raises:
        FormatError: the model's parts do not fit each other.
    """
    if name != "auto" or device is None:
        return device
    options = _core.Options(context=context, read_threads=READ_THREADS, read_ahead=True)
    refusal = _core.refusal(spec=spec, file_bytes=file_bytes, options=options,
                            compute=compute(1, "float32", device, kv))  # fmt: skip
    if refusal is None:
        return device
    logger.info("device auto: cpu, because %s (%s) cannot compute this model: %s", device.kind,
                device.name, refusal)  # fmt: skip
    return None


def first_device(kinds: Sequence[str]) -> _core.NativeDevice:
    """The first of these that this machine has. Raises NoDeviceError for the last of them."""
    for kind in kinds[:-1]:
        with suppress(NoDeviceError):
            return _core.NativeDevice(kind)
    return _core.NativeDevice(kinds[-1])


def kind_of(device: _core.NativeDevice | None) -> str:
    """The name of an open device, "cpu" for None."""
    return "cpu" if device is None else device.kind


def check_precision(precision: str, device: str = "cpu") -> None:
    """Raises FormatError when there is no such precision, or not on that device."""
    check("load", FormatError, RULES, {"precision": precision})
    if device != "cpu" and precision != "float32":
        raise FormatError(
            f"[load] expected precision float32 on device {device}, found {precision!r}: the "
            f"others are the CPU's"
        )


def check_kv(kv: str | None, device: str = "cpu") -> None:
    """Raises FormatError when there is no such type of a KV cache, or not on that device."""
    check("load", FormatError, RULES, {"kv": kv})
    known = caches_of(
        "cpu" if device == "auto" else device
    )  # "auto" is the CPU where a GPU refuses
    if kv is not None and kv not in known:
        raise FormatError(
            f"[load] expected kv {' or '.join(known)} on device {device}, found {kv!r}: it is the "
            f"CPU's"
        )


def caches_of(device: str) -> tuple[str, ...]:
    """The types of a KV cache that a model can have on that device."""
    return CACHES if device == "cpu" else tuple(kv for kv in CACHES if kv != "int8")


def advised_bytes(device: _core.NativeDevice | None) -> int | None:
    """What the device advises to keep resident (recommendedMaxWorkingSetSize); None: no advice."""
    return (device.limits["working_set_bytes"] or None) if device is not None else None


def device_budget(memory: str | int, device: _core.NativeDevice | None) -> int:
    """The budget in bytes; "auto" stays within what the device advises to keep resident.

    Raises:
        FormatError: `memory` is no size.
        MemoryBudgetError: it is more than the device advises; the message has both numbers.
    """
    nbytes, advised = budget_bytes(memory), advised_bytes(device)
    if advised is None or nbytes <= advised:
        return nbytes
    if memory == "auto":
        return advised
    raise MemoryBudgetError(
        f"[device] a budget of {nbytes} bytes passes what the device advises to keep resident: at "
        f"most {advised} bytes; memory={advised} would do"
    )
