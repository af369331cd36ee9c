"""All kernels of the library: the 27 whose cases ship with the doctor, and the engine's own."""

from functools import partial

from moeflux.doctor.kernels import cases as contract
from moeflux.doctor.kernels.case import Family

from . import cases_linear, cases_rows, cases_sequence

KERNELS: dict[str, Family] = contract.KERNELS | {
    name: Family(*entry)
    for module in (cases_linear, cases_rows, cases_sequence)
    for name, entry in sorted(module.KERNELS.items())
}
listed = partial(contract.listed, KERNELS)
make = partial(contract.make, kernels=KERNELS)
draw = partial(contract.draw, kernels=KERNELS)
