"""Rules of the whole suite."""

import importlib
import importlib.util
import os
import signal
import sys
import weakref
from pathlib import Path

import pytest

# A background job of a shell ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Matrices here are small: threads for their products would wait busily for the next one, beside the
# other workers of pytest. To be set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# MOEFLUX_TEST_CORE=<folder> runs the suite on the native module built there instead of the
# installed one (tests/cpp/CMakeLists.txt: ops that queue).
if folder := os.environ.get("MOEFLUX_TEST_CORE"):
    (found,) = Path(folder).glob("_core*.so")
    spec = importlib.util.spec_from_file_location("moeflux._core", found)
    assert spec is not None and spec.loader is not None
    sys.modules["moeflux._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["moeflux._core"])

# With MOEFLUX_CI=1 a skip is a failure, except these (id prefix: why).
ALLOWED_SKIPS: dict[str, str] = {
    "tests/nvidia/test_gpu.py": "needs an NVIDIA GPU",
    "tests/python/test_llama_cpp.py": "llama-cpp-python takes minutes to compile",
    "tests/python/test_mlx_modes.py::test_numbers_are_those_of_mlx": "needs mlx, of 100 MB",
    "tests/python/test_real_model.py": "a real model takes 6 GB; .ci/full has it",
}


@pytest.fixture(scope="session", autouse=True)
def _built_once(tmp_path_factory):
    """A checkpoint that many tests ask for is computed once. Some suites have no numpy for it."""
    if writer := sys.modules.get("oracle.writer"):
        writer.kept = tmp_path_factory.mktemp("built")


@pytest.fixture(scope="session", autouse=True)
def _no_state_of_the_user(tmp_path_factory):
    """Commands remember the folders that they write; those of tests are no one's."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def sole_models(monkeypatch):
    """`auto` counts the models of this test only: others may still be at work, or end meanwhile."""
    memory = importlib.import_module("moeflux.memory")
    monkeypatch.setattr(memory, "_models", weakref.WeakSet())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    allowed = any(item.nodeid.startswith(prefix) for prefix in ALLOWED_SKIPS)
    if report.skipped and os.environ.get("MOEFLUX_CI") == "1" and not allowed:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which runs everything: {report.longrepr}"
    return report


# The files that take longest are first, for pytest-xdist's `--dist loadfile --no-loadscope-reorder`
# deals files out in this order: a long one begun last leaves every other core idle. They are marked
# slow, so that `make quick` leaves them out.
LONGEST = [
    *("soak/test_soak.py", "soak/test_sessions.py", "python/test_gpu_goldens.py"),
    *("serve/test_engine.py", "python/test_goldens.py", "python/test_pack.py"),
    *("python/test_device_model.py", "kernels/test_kernels.py", "python/test_doctor.py"),
    *("python/test_drafting.py", "python/test_routing.py", "serve/disk/test_disk_cache.py"),
    *("python/test_lifecycles.py", "python/test_terminal.py", "python/test_hub.py"),
    *("serve/test_batch.py", "python/test_convert.py", "python/test_cli.py"),
    *("python/test_traps.py", "python/test_plan_model.py"),
    *("hostile/test_mutations.py", "python/test_gpu_exactness.py"),
]
# Repeats of what another test asserts in a smaller way, and what takes most time: .ci/full has it.
WITH_FULL = os.environ.get("MOEFLUX_FULL") == "1"
RANK = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(config, items):
    if not WITH_FULL:
        full = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
    items.sort(key=lambda item: RANK.get(item.path, len(RANK)))  # stable: the rest as they were
    for item in items:
        if item.path in RANK:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter):
    """The last word before pytest's own: what this run cannot say."""
    terminalreporter.write_line(
        "not run here: C++ tests and sanitizers (make cpp-test sanitize), Metal over the stand-in "
        "(make metal-test), the macOS wheel (make cross-test), lint (make lint); all: .ci/run, "
        ".ci/full"
    )
