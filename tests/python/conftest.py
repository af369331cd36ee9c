"""Fixtures of the tests of the package."""

import pytest

import moeflux as mf
import support.cli_once  # noqa: F401
from support.devices import DEVICES


@pytest.fixture(params=DEVICES)
def backend(request):
    """Each device in turn, freshly opened."""
    return mf.Backend(request.param)
