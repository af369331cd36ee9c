"""No kernel's result may depend on the order in which its threads and threadgroups run."""

import pytest

import moeflux as mf
from kernels.run import run
from moeflux.doctor.kernels import cases
from moeflux.doctor.kernels.case import bits

N_SCHEDULES = 5
N_DRAWN = 5


@pytest.fixture(scope="module")
def backends():
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        for seed in range(N_SCHEDULES):
            patch.setenv("MOEFLUX_HOST_SEED", str(seed))  # read as the device is opened
            opened.append(mf.Backend("host"))
    assert all(backend.name.endswith("checked") for backend in opened)
    return opened


@pytest.mark.parametrize("name", sorted(cases.KERNELS))
def test_schedules_give_the_same_bits(backends, name):
    shapes = [cases.make(name, shape) for shape in cases.KERNELS[name].shapes]
    for case in shapes + [cases.draw(name, seed) for seed in range(N_DRAWN)]:
        first, *others = [run(backend, case) for backend in backends]
        for outputs in others:
            for one, other in zip(first, outputs, strict=True):
                assert bits(one).tobytes() == bits(other).tobytes(), str(case)
