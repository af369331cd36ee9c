"""The kernels' own oracles on the GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moeflux.doctor.kernels import cases
from moeflux.doctor.kernels.case import PAD, Case, Out, bits, judge, unwritten

from .driver import CudaError
from .kernels import Kernels


def chosen(kernels: Kernels, names: Sequence[str], drawn: int, most: int | None) -> list[Case]:
    """Cases of `names`, or of every kernel that has some: `most` listed shapes, `drawn` others."""
    out = []
    for name in names or sorted(cases.KERNELS.keys() & kernels.by_name.keys()):
        out += [cases.make(name, shape) for shape in cases.KERNELS[name].shapes[:most]]
        out += [cases.draw(name, seed) for seed in range(drawn)]
    return out


def run(kernels: Kernels, case: Case) -> tuple[str, float]:
    """What is wrong, "" where nothing is, and the largest error as a share of what is allowed."""
    device = kernels.device
    key = kernels.key(case.kernel, case.constants, 0)
    args, held = [], []
    for arg in case.args:
        if isinstance(arg, list):  # of buffers
            places = [device.upload(each) for each in arg]
            held += zip(arg, arg, places, strict=True)
            sizes = [each.nbytes for each in arg]
            listed = [(p.value, n) for p, n in zip(places, sizes, strict=True)]
            args.append(device.addresses(listed))
            held.append((None, np.array(listed, np.uint64), args[-1]))
            continue
        if not isinstance(arg, Out | np.ndarray) and arg is not None:
            args.append(arg)
            continue
        start = np.zeros(4, np.uint32) if arg is None else arg
        if isinstance(arg, Out):
            first = arg.initial().reshape(-1)
            behind = np.full(PAD, unwritten(first.dtype), first.dtype)
            start = np.concatenate([first, behind])
        start = np.ascontiguousarray(start)
        address = device.upload(start)
        held.append((arg, start, address))
        args.append(address)
    device.launch(kernels.function(key), kernels.slots(case.kernel, args), case.grid, case.threads)
    device.wait()
    problems, errors = [], [0.0]
    for place, (arg, start, address) in enumerate(held):
        got = device.read(address, start)
        if isinstance(arg, Out):
            problem, error = judge(arg, got.reshape(-1))
            errors.append(error)
        else:
            problem = "" if np.array_equal(bits(got), bits(start)) else "an input was written"
        if problem:
            problems.append(f"buffer {place}: {problem}")
        device.free(address)
    return "; ".join(problems), max(errors)


def check(kernels: Kernels, todo: Sequence[Case]) -> Iterator[tuple[Case, str, float]]:
    """Runs cases one by one; a fault of one is its problem, and the others run."""
    kernels.compile(kernels.key(case.kernel, case.constants, 0) for case in todo)
    for case in todo:
        try:
            yield case, *run(kernels, case)
        except CudaError as error:
            yield case, str(error), 0.0
            kernels.reset()
