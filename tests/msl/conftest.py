"""Tests of the shader front end; those of the checked host device run by kernel_checks.sh only."""

import os

collect_ignore = [] if os.environ.get("MOEFLUX_EXPECT_CHECKED") else ["test_schedules.py"]
