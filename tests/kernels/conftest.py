"""The devices that kernels are tried on."""

import pytest

import moeflux as mf
from support.devices import DEVICES


@pytest.fixture(scope="session", params=DEVICES)
def backend(request):
    return mf.Backend(request.param)
