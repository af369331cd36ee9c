"""Each kernel against its oracle: listed shapes, drawn shapes, default geometry, exact sizes."""

import os

import numpy as np
import pytest

import moeflux as mf
from moeflux.doctor.kernels import cases
from moeflux.doctor.kernels.case import Out

from .run import arguments, run

N_DRAWN = 100 if os.environ.get("MOEFLUX_FULL") == "1" else 10
NAMES = sorted(cases.KERNELS)


def test_every_kernel_of_the_library_has_an_oracle(backend):
    assert list(backend.kernels) == NAMES
    assert set(mf.ALL_KERNELS) <= set(NAMES)


@pytest.mark.parametrize(("name", "shape"), cases.listed(), ids=str)
def test_listed_shape(backend, name, shape):
    run(backend, cases.make(name, shape))


@pytest.mark.parametrize("name", NAMES)
def test_drawn_shapes(backend, name):
    for seed in range(N_DRAWN):
        run(backend, cases.draw(name, seed))


@pytest.mark.parametrize("name", NAMES)
def test_default_geometry_covers_the_work(backend, name):
    for shape in cases.KERNELS[name].shapes:
        case = cases.make(name, shape)
        case.grid = case.threads = None
        run(backend, case, pad=0)  # the default may follow from a buffer's length


@pytest.mark.parametrize("name", NAMES)
def test_exact_sizes_are_enough_and_one_element_less_is_refused(backend, name):
    case = cases.make(name, cases.KERNELS[name].shapes[-1])
    run(backend, case, pad=0)
    for place, arg in enumerate(case.args):
        if not isinstance(arg, Out | np.ndarray):
            continue
        args = arguments(backend, case, pad=0)
        whole = args[place].numpy().reshape(-1)
        if whole.size > 1:
            args[place] = mf.Buffer.from_array(backend, whole[:-1])
        else:
            args[place] = None
        grid, threads = (case.grid, 1, 1), (case.threads, 1, 1)
        with pytest.raises(mf.FormatError):
            backend.dispatch(case.kernel, args, grid, threads, case.constants)
