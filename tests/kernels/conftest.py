"""The devices that kernels are tried on."""

import pytest

import moeflux as mf
from support.devices import DEVICES


@pytest.fixture(scope="session", params=DEVICES)
def backend(request):
    return mf.Backend(request.param)


def pytest_addoption(parser):
    parser.addoption("--kernel", action="append", help="tests of this kernel only; repeatable")


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--kernel", default=None)
    if wanted:
        items[:] = [
            item
            for item in items
            if getattr(item, "callspec", None) and item.callspec.params.get("name") in wanted
        ]
