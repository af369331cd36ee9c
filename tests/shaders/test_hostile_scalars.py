"""Arguments that make no sense are refused, or do no harm: no crash, no hang, no stray write."""

import os

import numpy as np
import pytest

import moeflux as mf
from kernels.run import arguments
from moeflux.doctor.kernels import cases

N_TRIES = 60 if os.environ.get("MOEFLUX_FULL") == "1" else 20  # of each kernel
EDGES = (0, 1, 2, 3, 31, 32, 33, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
GEOMETRIES = (1, 31, 32, 64, 96, 256, 512, 1000, 1024, 4096)


@pytest.fixture(scope="module")
def backend():
    return mf.Backend("host")


def spoil(rng, value, backend):
    """Another number; a buffer of another size, or none."""
    if isinstance(value, mf.Buffer) or value is None:
        whole = np.zeros(0, np.float32) if value is None else value.numpy().reshape(-1)
        part = whole[: int(rng.integers(0, whole.size + 1))]
        return mf.Buffer.from_array(backend, part) if part.size else None
    number = int(rng.choice(EDGES)) if rng.integers(2) else int(rng.integers(0, 2**32))
    if isinstance(value, int | np.integer):
        return np.uint32(number)
    return np.array(number, np.uint32).view(np.float32)[()]  # any bits, NaN among them


@pytest.mark.parametrize("name", sorted(cases.KERNELS))
def test_spoiled_arguments(backend, name):
    rng = np.random.default_rng(sorted(cases.KERNELS).index(name))
    ran = 0
    for attempt in range(N_TRIES):
        case = cases.draw(name, attempt)
        args = arguments(backend, case, pad=0)
        for place in rng.integers(len(args), size=rng.integers(3)):
            args[place] = spoil(rng, args[place], backend)
        grid, threads = case.grid, case.threads
        geometry = rng.integers(4)
        if geometry == 0:
            grid, threads = int(rng.choice(GEOMETRIES)), int(rng.choice(GEOMETRIES))
        elif geometry == 1:
            grid = threads = None
        constants = {
            key: int(rng.choice(EDGES)) if rng.integers(4) == 0 else value
            for key, value in case.constants.items()
        }
        try:
            backend.dispatch(name, args, grid, threads, constants)
            ran += 1
        except (mf.FormatError, mf.GpuError):
            pass
    assert 0 < ran < N_TRIES
