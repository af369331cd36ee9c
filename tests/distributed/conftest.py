"""Ray on this machine alone, for all tests of this folder."""

import os

import pytest

ray = pytest.importorskip("ray", reason="make ray-test installs Ray")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Processes that are few and say little."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
