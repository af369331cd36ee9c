"""Kernels of one's own source and recordings through Backend("metal").

The stand-in compiles nothing: a source has those of the project's kernels that it names.
"""

import gc

import numpy as np
import pytest

import moeflux as mf
from metal_standin.standin import inject, live_objects

SOURCE = "kernel void residual_add(device const float* a) {}"
N = 100


@pytest.fixture
def backend():
    return mf.Backend("metal")


@pytest.fixture
def arrays(backend):
    return [mf.Buffer.from_array(backend, np.full(N, v, np.float32)) for v in (1, 2, 0)]


def test_an_own_kernel_runs_unchecked_and_marked_so(backend, arrays):
    kernel = backend.compile(SOURCE)["residual_add"]
    assert (kernel.name, kernel.checked, kernel.constants) == ("residual_add", False, {})
    backend.dispatch(kernel, [*arrays, np.uint32(N)], N, 32)
    np.testing.assert_array_equal(arrays[2].numpy(), np.full(N, 3, np.float32))
    with backend.commands(timed=True) as commands:
        commands.dispatch(kernel, [arrays[2][:50], arrays[1][50:], arrays[0], np.uint32(50)],
                          50, 32, label="half")  # fmt: skip
        commands.dispatch("residual_add", [*arrays, np.uint32(N)])
    assert [label for label, _ in commands.times] == ["half", "residual_add"]
    assert arrays[0].numpy().tolist() == [5.0] * 50 + [1.0] * 50


def test_what_it_may_have_written_is_waited_for_and_kept(backend, arrays):
    a, b, out = arrays
    inject("execution")
    command = backend.dispatch(backend.compile(SOURCE)["residual_add"], [a, b, out, np.uint32(N)],
                               N, 32, wait=False)  # fmt: skip
    del b
    gc.collect()
    with pytest.raises(mf.GpuError, match="residual_add"):
        a.numpy()
    with pytest.raises(mf.GpuError):
        command.wait()


@pytest.mark.parametrize(
    ("args", "grid", "group", "text"),
    [
        ([1], 8, 8, "argument 0: expected a Buffer, a list of them, np.float32"),
        ([1.5], 8, 8, "argument 0: expected a Buffer"),
        ([np.float64(1)], 8, 8, "argument 0: expected a Buffer"),
        ([np.zeros(4)], 8, 8, "argument 0: expected a Buffer"),
        ([None] * 32, 8, 8, "at most 31, found 32"),
        ([None], None, None, "a grid and a threadgroup"),
        ([None], 8, None, "a grid and a threadgroup"),
        ([None], 8, 2048, "expected at most"),
        ([None], 0, 8, "empty grid"),
    ],
)
def test_arguments_that_cannot_be_bound_are_refused(backend, args, grid, group, text):
    kernel = backend.compile(SOURCE)["residual_add"]
    with pytest.raises(mf.FormatError, match=text):
        backend.dispatch(kernel, args, grid, group)


def test_memory_that_may_not_be_written_and_other_backends_are_refused(backend):
    locked = mf.Buffer.zeros(backend, 8)
    locked.read_only = True  # as of a mapped file
    kernel = backend.compile(SOURCE)["residual_add"]
    with pytest.raises(mf.FormatError, match="found read-only"):
        backend.dispatch(kernel, [locked], 8, 8)
    other = mf.Backend("metal")
    with pytest.raises(mf.FormatError, match="another backend"):
        backend.dispatch(kernel, [mf.Buffer.zeros(other, 8)], 8, 8)
    with pytest.raises(mf.FormatError, match="of another device"):
        other.dispatch(kernel, [None], 8, 8)


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("#error no such thing\n", mf.LibraryCompileError, "no such thing"),
        ("", mf.KernelNotFoundError, "no kernel 'residual_add'"),
        ("\0" * 10, mf.KernelNotFoundError, "no kernel"),
        ("kernel " * 10000, mf.KernelNotFoundError, "no kernel"),
        ("vertex float4 residual_add(uint i) {}", mf.KernelNotFoundError, "no kernel"),
        ("kernel void other(uint i) {}", mf.KernelNotFoundError, "no kernel"),
    ],
)
def test_a_source_that_is_wrong_is_an_error_and_the_backend_goes_on(backend, source, error, text):
    with pytest.raises(error, match=text):
        backend.compile(source)["residual_add"]
    assert backend.compile(SOURCE)["residual_add"].max_threads > 0


def test_a_kernel_outlives_its_library_and_nothing_is_left(arrays):
    before = live_objects()
    backend = mf.Backend("metal")
    kernel = backend.compile(SOURCE)["residual_add"]
    x = mf.Buffer.zeros(backend, 8)
    gc.collect()
    backend.dispatch(kernel, [x, x, x, np.uint32(8)], 8, 8)
    del backend, kernel, x
    assert live_objects() == before


def test_a_recording_needs_leave_of_the_system_and_ends_with_its_block(
    backend, arrays, tmp_path, monkeypatch
):
    path = tmp_path / "x.gputrace"
    monkeypatch.delenv("MTL_CAPTURE_ENABLED", raising=False)
    with pytest.raises(mf.GpuError, match="set MTL_CAPTURE_ENABLED=1 before"):
        backend.capture(path).__enter__()
    monkeypatch.setenv("MTL_CAPTURE_ENABLED", "1")
    with pytest.raises(ZeroDivisionError), backend.capture(path):
        with pytest.raises(mf.GpuError, match="no other capture"):
            backend.capture(tmp_path / "y.gputrace").__enter__()
        backend.dispatch("residual_add", [*arrays, np.uint32(N)])
        raise ZeroDivisionError
    assert path.exists()
    with pytest.raises(mf.GpuError, match="does not start: Invalid output URL"):
        backend.capture(path).__enter__()
    with backend.capture(str(tmp_path / "y.gputrace")):
        pass
