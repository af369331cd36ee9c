"""Dispatches that are refused or fail on the device: typed errors, and life goes on."""

import gc

import numpy as np
import pytest

import moeflux as mf
from moeflux.doctor.kernels import cases
from moeflux.doctor.kernels.run import arguments
from support.devices import Add, buffer, filled, record_slow

# ---- bad input ---------------------------------------------------------------------------------


def test_an_unknown_kernel_is_refused(backend):
    for name in ("nope", "", "residual_add ", "Residual_Add", "residual_add\0"):
        with pytest.raises(mf.KernelNotFoundError):
            backend.dispatch(name, [])
        with pytest.raises(mf.KernelNotFoundError):
            backend.pipeline(name)


def bad_dispatches(backend):
    """(what, arguments of dispatch, words of the message)."""
    add = Add(backend)
    a, b, out, n = add.args
    short, other = mf.Buffer.zeros(backend, 7), mf.Buffer.zeros(mf.Backend(backend.kind), 8)
    half = mf.Buffer.zeros(backend, 16, np.float16)
    good = {"args": add.args, "grid": (8, 1, 1), "threadgroup": (8, 1, 1)}
    return add, [
        ("too few", {"args": [a, b, out]}, "4 arguments"),
        ("too many", {"args": [a, b, out, n, n]}, "found 5"),
        ("none at all", {"args": []}, "found 0"),
        ("dtype", {"args": [a, half, out, n]}, "float16"),
        ("array", {"args": [np.ones(8, np.float32), b, out, n]}, "ndarray"),
        ("number for buffer", {"args": [a, 3, out, n]}, "expected a Buffer"),
        ("buffer for number", {"args": [a, b, out, out]}, "u32"),
        ("none for number", {"args": [a, b, out, None]}, "u32"),
        ("none for buffer", {"args": [a, None, out, n]}, "b"),
        ("small input", {"args": [a, short, out, n]}, "b"),
        ("small output", {"args": [a, b, short, n]}, "out"),
        ("scalar past the buffers", {"args": [a, b, out, np.uint32(9)]}, "9"),
        ("huge scalar", {"args": [a, b, out, np.uint32(0xFFFFFFFF)]}, "4294967295"),
        ("negative", {"args": [a, b, out, -1]}, "u32"),
        ("wide", {"args": [a, b, out, 1 << 32]}, "u32"),
        ("float for u32", {"args": [a, b, out, np.float32(8)]}, "u32"),
        ("bool for u32", {"args": [a, b, out, True]}, "u32"),
        ("text for u32", {"args": [a, b, out, "8"]}, "u32"),
        ("other backend", {"args": [a, other, out, n]}, "another backend"),
        ("four dimensions", {**good, "grid": (8, 1, 1, 1)}, "dimensions"),
        ("no dimension", {**good, "grid": ()}, "dimensions"),
        ("empty grid", {**good, "grid": (0, 1, 1)}, "grid"),
        ("negative grid", {**good, "grid": (-8, 1, 1)}, "grid"),
        ("fraction of a thread", {**good, "grid": 8.5}, "grid"),
        ("empty threadgroup", {**good, "threadgroup": (0, 1, 1)}, "threadgroup"),
        ("threadgroup past the limit", {**good, "threadgroup": (2048, 1, 1)}, "threadgroup"),
        ("threadgroup past 32 bits", {**good, "threadgroup": (1 << 31, 1 << 31, 1)}, "threadgroup"),
        ("grid that overflows", {**good, "grid": (0xFFFFFFFF,) * 3}, "grid"),
        ("constant", {**good, "constants": {"Dk": 3}}, "Dk"),
    ]  # fmt: skip


BAD = [what for what, _, _ in bad_dispatches(mf.Backend("host"))[1]]


@pytest.mark.parametrize("index", range(len(BAD)), ids=BAD)
def test_a_bad_dispatch_is_refused_and_nothing_runs(backend, index):
    add, cases = bad_dispatches(backend)
    _, call, words = cases[index]
    with pytest.raises((mf.FormatError, mf.PipelineError), match=words) as caught:
        backend.dispatch("residual_add", **call)
    assert "residual_add" in str(caught.value)
    assert np.isnan(add.out.numpy()).all()
    backend.dispatch("residual_add", add.args)  # the backend still works
    np.testing.assert_array_equal(add.out.numpy(), add.expected)


@pytest.mark.parametrize(
    ("slabs", "words"),
    [
        ("buffer", "expected a list of Buffers, found Buffer"),
        ([3], "expected a Buffer, found int"),
        ("other", "another backend"),
        ([], r"\(slabs\) is too small: expected 4 elements of u64, found 0"),
        (None, "slabs.* is missing"),
    ],
    ids=str,
)
def test_addresses_come_from_a_list_of_buffers(backend, slabs, words):
    case = cases.make("experts_down_bf16_f32", (1, 1, 64, 64))
    args = arguments(backend, case, 0)
    if slabs == "buffer":
        slabs = args[1]
    elif slabs == "other":
        slabs = [mf.Buffer.zeros(mf.Backend(backend.kind), 8)]
    args[0] = slabs
    with pytest.raises(mf.FormatError, match=words):
        backend.dispatch(case.kernel, args, constants=case.constants)


@pytest.mark.parametrize(
    ("kernel", "threads"),
    [("rms_norm_sum_sq", 33), ("rms_norm_sum_sq", 16), ("dequant_matvec_4bit_v3", 128)],
)
def test_a_threadgroup_size_that_a_kernel_cannot_take_is_refused(backend, kernel, threads):
    x = buffer(backend, np.ones(64))
    args = [x, filled(backend, 1), 64]
    if kernel != "rms_norm_sum_sq":
        q = mf.Buffer.zeros(backend, (8, 8), np.uint32)
        s = mf.Buffer.zeros(backend, (8, 1), np.uint16)
        args = [q, s, s, x, filled(backend, 8), 8, 64, 64]
    with pytest.raises(mf.FormatError, match=f"threadgroup.*{threads}|{threads}.*thread"):
        backend.dispatch(kernel, args, grid=threads, threadgroup=threads)


@pytest.mark.parametrize("eps", [1e-6, np.float32(1e-6), np.float64(1e-6), np.float16(1e-3), 1])
def test_a_f32_scalar_takes_any_float_and_a_python_int(backend, eps):
    x, one = buffer(backend, [3.0, 4.0]), buffer(backend, [1.0, 1.0])
    out = filled(backend, 2)
    backend.dispatch("rms_norm_apply", [x, one, buffer(backend, [25.0]), out, 2, eps])
    np.testing.assert_allclose(out.numpy(), [3, 4] / np.sqrt(12.5 + float(eps)), rtol=1e-6)


@pytest.mark.parametrize("eps", [np.uint32(1), "1", None, True, 1e39, 10**400, [1.0]], ids=repr)
def test_what_is_no_f32_is_refused(backend, eps):
    x, out = buffer(backend, [3.0, 4.0]), filled(backend, 2)
    with pytest.raises(mf.FormatError, match="eps"):
        backend.dispatch("rms_norm_apply", [x, x, buffer(backend, [25.0]), out, 2, eps])


def test_offsets_that_lead_behind_the_weights_are_refused(backend):
    rows, cols, k = 8, 64, 2
    w = mf.Buffer.zeros(backend, (k, rows, cols // 8), np.uint32)
    s = mf.Buffer.zeros(backend, (k, rows, 1), np.uint16)
    x, out = buffer(backend, np.ones((k, cols))), filled(backend, k, rows)

    def run(w_offsets, s_offsets, b_offsets):
        offsets = [buffer(backend, o, np.uint32) for o in (w_offsets, s_offsets, b_offsets)]
        backend.dispatch(
            "dequant_matvec_4bit_batched", [w, s, s, x, out, rows, cols, 64, *offsets, 1]
        )

    with pytest.raises(mf.FormatError):
        run([0, 65], [0, 8], [0, 8])
    with pytest.raises(mf.FormatError):
        run([0, 0xFFFFFFFF], [0, 8], [0, 8])
    with pytest.raises(mf.FormatError):
        run([0, 64], [0, 9], [0, 8])
    assert np.isnan(out.numpy()).all()
    run([0, 64], [0, 8], [0, 8])
    np.testing.assert_array_equal(out.numpy(), np.zeros((k, rows)))


# ---- what the device reports -------------------------------------------------------------------


@pytest.fixture
def faulty():
    """A command in flight that will fail: its offsets change after they were checked.

    The host device looks again before it runs a kernel. (The Metal device's faults are tested in
    C++ over the stand-in framework, which injects them.)
    """
    backend = mf.Backend("host")
    w = mf.Buffer.zeros(backend, (2, 8, 8), np.uint32)
    s = mf.Buffer.zeros(backend, (2, 8, 1), np.uint16)
    x, out = buffer(backend, np.ones((2, 64))), filled(backend, 2, 8)
    offsets = [buffer(backend, [0, o], np.uint32) for o in (64, 8, 8)]
    view = offsets[0].numpy()
    with backend.commands(wait=False) as commands:
        record_slow(commands, backend, n=20)
        commands.dispatch("dequant_matvec_4bit_batched", [w, s, s, x, out, 8, 64, 64, *offsets, 1])
    view[1] = 0xFFFFFFFF
    return commands, out


def test_a_fault_is_thrown_by_wait(faulty):
    commands, out = faulty
    for _ in range(2):
        with pytest.raises(mf.GpuError, match=r"dequant_matvec_4bit_batched: argument 0 \(W"):
            commands.wait()
    assert commands.done
    assert np.isnan(out.numpy()).all()  # who has seen the error may look


def test_a_fault_is_thrown_once_by_numpy_of_what_was_to_be_written(faulty):
    _, out = faulty
    with pytest.raises(mf.GpuError, match="too small"):
        out.numpy()
    assert np.isnan(out.numpy()).all()


def test_after_a_fault_the_backend_works(faulty):
    _, out = faulty
    add = Add(out.backend)
    out.backend.dispatch("residual_add", add.args)
    np.testing.assert_array_equal(add.out.numpy(), add.expected)
    with pytest.raises(mf.GpuError):
        out.numpy()  # nobody had seen it yet


def test_a_fault_is_thrown_although_later_commands_write_the_buffer(faulty):
    commands, out = faulty
    a = mf.Buffer.zeros(out.backend, 16)
    for _ in range(3):
        out.backend.dispatch("residual_add", [a, a, out, 16])
    assert commands.done
    with pytest.raises(mf.GpuError):
        out.numpy()
    np.testing.assert_array_equal(out.numpy(), np.zeros((2, 8)))


def test_a_fault_of_what_was_dropped_harms_nobody(faulty):
    out = faulty[1]
    backend = out.backend
    del faulty, out
    gc.collect()
    add = Add(backend)
    backend.dispatch("residual_add", add.args)
    np.testing.assert_array_equal(add.out.numpy(), add.expected)
