"""Runs a case on a Backend; what goes wrong is a failed assertion."""

import numpy as np

import moeflux as mf
from moeflux.doctor.kernels import run as doctor_run
from moeflux.doctor.kernels.case import PAD, Case
from moeflux.doctor.kernels.run import arguments

__all__ = ["arguments", "run"]


def run(backend: mf.Backend, case: Case, pad: int = PAD) -> list[np.ndarray]:
    """The outputs, without padding, in binding order."""
    outcome = doctor_run.run(backend, case, pad)
    assert not outcome.problem, f"{case}: {outcome.problem}"
    return outcome.outputs
