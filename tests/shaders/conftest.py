"""Tests of the shader front end; those of the checked host device run by kernel_checks.sh only."""

import os
from pathlib import Path

import pytest

collect_ignore = [] if os.environ.get("MOEFLUX_EXPECT_CHECKED") else ["test_schedules.py"]


@pytest.fixture(scope="session")
def repository():
    return Path(__file__).parents[2]
