"""The stand-in as Python sees it, and a pytest plugin (`-p metal_standin.standin`) that fails every
test which breaks a rule of Metal's, and a session that leaves an object behind."""

import ctypes
import gc
from pathlib import Path

import pytest

import moeflux

_library = ctypes.CDLL(str(Path(moeflux.__file__).parent / "libmetal_standin.so"))
_library.metal_standin_live_objects.restype = ctypes.c_long
_library.metal_standin_take_violations.restype = ctypes.c_char_p
_library.metal_standin_inject.restype = ctypes.c_bool


def inject(fault, after=0):
    """The call of that kind that comes after `after` good ones fails, once."""
    assert _library.metal_standin_inject(fault.encode(), after)


def clear_faults():
    _library.metal_standin_clear_faults()


def violations():
    """What Metal's validation would have stopped the process for, since the last call."""
    return _library.metal_standin_take_violations().decode().splitlines()


def live_objects():
    """Objective-C objects alive, once nothing is under way."""
    gc.collect()
    return _library.metal_standin_live_objects()


@pytest.fixture(autouse=True)
def no_rule_of_metal_is_broken():
    yield
    clear_faults()
    assert violations() == []


left_in_workers = []  # of pytest-xdist, whose sessions end before this one


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    left_in_workers.append(getattr(node, "workeroutput", {}).get("metal_objects_left", 0))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    left = live_objects() + sum(left_in_workers)
    worker = getattr(session.config, "workeroutput", None)
    if worker is not None:
        worker["metal_objects_left"] = left
    elif left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nmetal stand-in: {left} objects are left at the end of the session")
