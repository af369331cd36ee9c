"""Backend("metal") when the system fails it: typed errors, nothing leaks, the process goes on."""

import gc

import numpy as np
import pytest

import moeflux as mf
from metal_standin.standin import inject, live_objects

N = 100


def add(backend):
    """A dispatch, from new buffers to its result."""
    x = mf.Buffer.from_array(backend, np.arange(N, dtype=np.float32))
    out = mf.Buffer.from_array(backend, np.full(N, np.nan, np.float32))
    backend.dispatch("residual_add", [x, x, out, np.uint32(N)])
    return out.numpy().copy()


def check_works(backend):
    np.testing.assert_array_equal(add(backend), 2 * np.arange(N, dtype=np.float32))


@pytest.fixture
def backend():
    return mf.Backend("metal")


def test_the_device_is_the_stand_in(backend):
    assert repr(backend).startswith("<Backend metal 'Metal stand-in'")
    check_works(backend)


def test_no_device():
    inject("device")
    with pytest.raises(mf.NoDeviceError, match="no Metal device"):
        mf.Backend("metal")
    inject("device")
    assert mf.Backend().kind == "host"


FAULTS = {
    "buffer": (mf.GpuError, "no memory for a buffer of 400 bytes"),
    "library": (mf.LibraryCompileError, "program_source:1:2: error"),
    "function": (mf.KernelNotFoundError, "residual_add"),
    "pipeline": (mf.PipelineError, "cannot make a pipeline of residual_add"),
    "simd_width": (mf.PipelineError, "expected 32, found 16"),
    "command_buffer": (mf.GpuError, "no command buffer"),
    "encoder": (mf.GpuError, "no encoder"),
    "execution": (mf.GpuError, "GPU Address Fault.*kernels: residual_add"),
    "timeout": (mf.GpuError, "Timeout.*held the GPU for too long.*kernels: residual_add"),
    "interactivity": (mf.GpuError, "Interactivity.*kept the display waiting.*kernels: residual_"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_typed_error_and_the_backend_goes_on(backend, fault):
    error, text = FAULTS[fault]
    inject(fault)
    with pytest.raises(error, match=text) as raised:
        add(backend)
    assert isinstance(raised.value, mf.GpuError)
    check_works(backend)


def test_a_fault_of_work_in_flight_comes_out_of_each_wait(backend):
    x = mf.Buffer.from_array(backend, np.zeros(N, np.float32))
    inject("execution")
    command = backend.dispatch("residual_add", [x, x, x, np.uint32(N)], wait=False)
    for _ in range(2):
        with pytest.raises(mf.GpuError, match="Address Fault"):
            command.wait()
    assert command.done
    check_works(backend)


def test_buffers_may_be_dropped_while_work_is_in_flight(backend):
    for _ in range(20):
        x = mf.Buffer.from_array(backend, np.zeros(N, np.float32))
        command = backend.dispatch("residual_add", [x, x, x, np.uint32(N)], wait=False)
        del x
        gc.collect()
        command.wait()


def test_nothing_leaks_over_success_and_every_failure():
    def everything():
        for fault in [None, *FAULTS]:
            backend = mf.Backend("metal")
            if fault is None:
                check_works(backend)
                continue
            inject(fault)
            with pytest.raises(FAULTS[fault][0]):
                add(backend)

    before = live_objects()
    everything()
    assert live_objects() == before
