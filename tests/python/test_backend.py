"""Backend, Buffer and Command as a user meets them."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import moeflux as mf
from moeflux.backend import Limits

# As in tests/kernels: each named device must be there.
DEVICES = os.environ.get("MOEFLUX_TEST_DEVICES", "host").split(",")
CONTRACT = (
    "attn_scores_batched",
    "attn_softmax_batched",
    "attn_values_batched",
    "compute_decay_beta",
    "conv1d_step",
    "dequant_matvec_2bit",
    "dequant_matvec_4bit",
    "dequant_matvec_4bit_batched",
    "dequant_matvec_4bit_fast",
    "dequant_matvec_4bit_v3",
    "dequant_matvec_4bit_v4",
    "dequant_matvec_4bit_v5",
    "dequant_matvec_8bit_v3",
    "fused_gate_up_swiglu",
    "gated_delta_net_step",
    "gated_rms_norm",
    "moe_combine_residual",
    "residual_add",
    "rms_norm_apply",
    "rms_norm_apply_bf16",
    "rms_norm_qk",
    "rms_norm_sum_sq",
    "sigmoid_gate",
    "swiglu_fused",
    "swiglu_fused_batched",
    "swiglu_fused_vec4",
    "weighted_sum",
)
SLOW_DIM = 2048  # of the square matrix of `slow`


@pytest.fixture(params=DEVICES)
def backend(request):
    return mf.Backend(request.param)


def buffer(backend, values, dtype=np.float32):
    return mf.Buffer.from_array(backend, np.asarray(values, dtype))


def filled(backend, *shape):
    """A buffer of NaN, so that an element that nobody wrote shows."""
    return mf.Buffer.from_array(backend, np.full(shape, np.nan, np.float32))


class Add:
    """Arguments of residual_add over n elements, and what must come out."""

    def __init__(self, backend, n=8):
        self.a, self.b = (buffer(backend, np.arange(n) + i) for i in (0, 0.5))
        self.out = filled(backend, n)
        self.args = [self.a, self.b, self.out, np.uint32(n)]
        self.expected = 2 * np.arange(n) + np.float32(0.5)


def record_slow(commands, backend, n=60):
    """Records work that takes the host device some seconds; the rows of its output."""
    words = mf.Buffer.zeros(backend, (SLOW_DIM, SLOW_DIM // 8), np.uint32)
    scales = mf.Buffer.zeros(backend, (SLOW_DIM, SLOW_DIM // 64), np.uint16)
    biases = mf.Buffer.from_array(
        backend, np.full((SLOW_DIM, SLOW_DIM // 64), 0x3F80, np.uint16)
    )  # bf16 1.0
    x, out = buffer(backend, np.ones(SLOW_DIM)), filled(backend, SLOW_DIM)
    scalars = [np.uint32(SLOW_DIM), np.uint32(SLOW_DIM), np.uint32(64)]
    for _ in range(n):
        commands.dispatch("dequant_matvec_4bit_fast", [words, scales, biases, x, out, *scalars])
    return out


# ---- Backend -----------------------------------------------------------------------------------


def test_all_kernels_are_the_27_of_the_contract():
    assert CONTRACT == mf.ALL_KERNELS and len(CONTRACT) == 27
    assert list(mf.ALL_KERNELS) == sorted(mf.ALL_KERNELS)


def test_the_library_has_the_contract_and_is_sorted(backend):
    assert set(mf.ALL_KERNELS) <= set(backend.kernels)
    assert list(backend.kernels) == sorted(set(backend.kernels))


def test_backend_takes_metal_where_there_is_one_and_else_the_host():
    try:
        mf.Backend("metal")
    except mf.NoDeviceError as error:
        assert mf.Backend().kind == "host"
        assert len(str(error)) > 40  # says why
    else:
        assert mf.Backend().kind == "metal"


@pytest.mark.skipif("metal" in DEVICES or sys.platform == "darwin", reason="has Metal")
def test_metal_where_there_is_none_says_why():
    with pytest.raises(mf.NoDeviceError, match="Metal"):
        mf.Backend("metal")


@pytest.mark.parametrize("kind", ["cuda", "", "Metal", "host "])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(mf.FormatError, match="metal or host"):
        mf.Backend(kind)


def test_repr_shows_device_and_cached_pipelines(backend):
    assert f"{backend.kind} {backend.name!r}, 0 pipelines" in repr(backend)
    backend.pipeline("residual_add")
    assert "1 pipeline" in repr(backend)


def test_limits_are_those_of_a_device(backend):
    limits = backend.limits
    assert isinstance(limits, Limits)
    assert limits.max_threads >= 256 and limits.threadgroup_bytes >= 16384
    assert limits.max_buffer_bytes > 1 << 20
    assert limits.page_bytes % 4096 == 0


def test_a_pipeline_is_compiled_once_for_each_set_of_constants(backend):
    assert backend.pipeline_count == 0
    first = backend.pipeline("gated_delta_net_step")
    assert first.constants == {"Dk": 128} and first.max_threads >= 128
    backend.pipeline("gated_delta_net_step", constants={"Dk": 128})
    backend.pipeline("gated_delta_net_step", {})
    assert backend.pipeline_count == 1
    assert backend.pipeline("gated_delta_net_step", {"Dk": np.uint32(64)}).constants == {"Dk": 64}
    assert backend.pipeline_count == 2
    assert mf.Backend(backend.kind).pipeline_count == 0  # nothing is global


def test_a_dispatch_compiles_its_kernel(backend):
    add = Add(backend)
    for _ in range(3):
        backend.dispatch("residual_add", add.args)
    assert backend.pipeline_count == 1


def test_warm_all_compiles_the_library(backend):
    backend.warm_all()
    assert backend.pipeline_count == len(backend.kernels)
    backend.warm_all()
    assert backend.pipeline_count == len(backend.kernels)


@pytest.mark.parametrize("constants", [{"nope": 1}, {"Dk": -1}, {"Dk": 1.5}, {"Dk": 1 << 32}])
def test_constants_that_a_kernel_cannot_take_are_refused(backend, constants):
    with pytest.raises((mf.PipelineError, mf.FormatError)):
        backend.pipeline("gated_delta_net_step", constants)
    assert backend.pipeline_count == 0


@pytest.mark.parametrize("device", DEVICES)
def test_backends_open_and_close_many_times(device):
    def threads():
        return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

    before = threads()
    views = []
    for _ in range(30):
        add = Add(mf.Backend(device))
        add.a.backend.dispatch("residual_add", add.args, wait=False)
        views.append((add.out.numpy(), add.expected))
        del add
        gc.collect()
    for view, expected in views:
        np.testing.assert_array_equal(view, expected)
    del views, view
    gc.collect()
    assert threads() <= before + 1


# ---- Buffer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint32, np.int32, np.uint16, "u1"])
@pytest.mark.parametrize("shape", [1, 7, (3, 5), (2, 3, 4), ()])
def test_a_buffer_is_zeros_of_its_shape_and_dtype(backend, shape, dtype):
    for make in (mf.Buffer, mf.Buffer.zeros, mf.Buffer.empty):
        made = make(backend, shape, dtype)
        expected = np.zeros(shape, dtype)
        view = made.numpy()
        assert view.dtype == expected.dtype and made.dtype == expected.dtype
        assert made.shape == view.shape == expected.shape
        assert len(made) == expected.size and made.nbytes == expected.nbytes
        np.testing.assert_array_equal(view, expected)


def test_from_array_copies_whatever_the_layout(backend):
    source = np.arange(24, dtype=np.float32).reshape(4, 6)
    for array in (source, source.T, source[::2, ::-1], source[1, 2], [np.float32(1)]):
        made = mf.Buffer.from_array(backend, array)
        np.testing.assert_array_equal(made.numpy(), array)
    made = mf.Buffer.from_array(backend, source)
    source[:] = -1
    assert made.numpy()[3, 5] == 23


def test_numpy_is_a_view_that_keeps_its_memory(backend):
    made = buffer(backend, np.arange(1000))
    first, second = made.numpy(), made.numpy()
    first[5] = -1
    assert second[5] == -1 and made.numpy()[5] == -1
    del made, backend, first
    gc.collect()
    spoil = [np.full(1000, 7, np.float32) for _ in range(100)]  # memory that was freed shows this
    np.testing.assert_array_equal(second[6:], np.arange(6, 1000))
    assert len(spoil) == 100


@pytest.mark.parametrize("dtype", [np.float64, np.int64, bool, np.complex64, "U3", object, "what"])
def test_a_dtype_that_no_kernel_knows_is_refused(backend, dtype):
    with pytest.raises(mf.FormatError, match="dtype"):
        mf.Buffer.zeros(backend, 4, dtype)


def test_from_array_does_not_narrow(backend):
    with pytest.raises(mf.FormatError, match="float64"):
        mf.Buffer.from_array(backend, np.ones(3))
    with pytest.raises(mf.FormatError, match="int64"):
        mf.Buffer.from_array(backend, [1, 2, 3])


@pytest.mark.parametrize("shape", [0, (3, 0), -1, (1 << 40, 1 << 40), "abc", None, 2.5, (1, "x")])
def test_a_shape_of_no_buffer_is_refused(backend, shape):
    with pytest.raises(mf.FormatError, match="shape"):
        mf.Buffer.zeros(backend, shape)


def test_more_memory_than_there_is_is_refused(backend):
    with pytest.raises(mf.GpuError):
        mf.Buffer.zeros(backend, 1 << 46)
    assert len(mf.Buffer.zeros(backend, 10)) == 10


# ---- dispatch ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "threadgroup"),
    [(None, None), ((77, 1, 1), (32, 1, 1)), (77, 64), ((77,), (1,)), ([128, 1], None)],
)
def test_geometry_may_be_whole_short_ragged_or_left_out(backend, grid, threadgroup):
    add = Add(backend, 77)
    assert backend.dispatch("residual_add", add.args, grid=grid, threadgroup=threadgroup) is None
    np.testing.assert_array_equal(add.out.numpy(), add.expected)


def test_a_command_is_done_after_wait_and_a_view_is_valid_again(backend):
    add = Add(backend)
    view = add.out.numpy()
    command = backend.dispatch("residual_add", add.args, wait=False)
    command.wait()
    assert command.done and command.gpu_seconds >= 0
    np.testing.assert_array_equal(view, add.expected)
    command.wait()  # again does nothing


def test_numpy_waits_for_the_commands_that_write(backend):
    with backend.commands(wait=False) as commands:
        out = record_slow(commands, backend, n=3)
    np.testing.assert_array_equal(out.numpy(), np.full(SLOW_DIM, SLOW_DIM))
    assert commands.done and commands.gpu_seconds > 0


def test_dispatches_of_one_command_buffer_run_in_order(backend):
    add = Add(backend)
    with backend.commands() as commands:
        for _ in range(5):
            commands.dispatch("residual_add", add.args)
            commands.dispatch("residual_add", [add.out, add.b, add.a, 8])
    a, b = np.arange(8), np.arange(8) + 0.5
    np.testing.assert_array_equal(add.out.numpy(), a + 9 * b)
    np.testing.assert_array_equal(add.a.numpy(), a + 10 * b)


def test_command_buffers_run_in_the_order_of_their_commits(backend):
    add = Add(backend)
    for _ in range(20):
        backend.dispatch("residual_add", [add.a, add.b, add.a, 8], wait=False)
    np.testing.assert_array_equal(add.a.numpy(), np.arange(8) + 20 * (np.arange(8) + 0.5))


def test_an_exception_while_recording_runs_nothing(backend):
    add = Add(backend)
    with pytest.raises(ZeroDivisionError), backend.commands() as commands:
        commands.dispatch("residual_add", add.args)
        1 / 0  # noqa: B018
    assert np.isnan(add.out.numpy()).all()
    assert not commands.done
    with pytest.raises(mf.GpuError, match="commit"):
        commands.wait()
    with pytest.raises(mf.GpuError, match="done"):
        commands.gpu_seconds  # noqa: B018


def test_a_committed_command_records_no_more(backend):
    add = Add(backend)
    command = backend.dispatch("residual_add", add.args, wait=False)
    with pytest.raises(mf.GpuError, match="records"):
        command.dispatch("residual_add", add.args)
    with pytest.raises(mf.GpuError, match="commit"), command:
        pass
    np.testing.assert_array_equal(add.out.numpy(), add.expected)


def test_buffers_and_backend_may_be_dropped_while_in_flight(backend):
    with backend.commands(wait=False) as commands:
        out = record_slow(commands, backend, n=5)  # its inputs are gone here
    del backend
    gc.collect()
    np.testing.assert_array_equal(out.numpy(), np.full(SLOW_DIM, SLOW_DIM))


@pytest.mark.parametrize("device", DEVICES)
def test_everything_may_be_dropped_while_in_flight(device):
    for _ in range(5):
        backend = mf.Backend(device)
        with backend.commands(wait=False) as commands:
            record_slow(commands, backend, n=2)
        del backend, commands
        gc.collect()


def test_none_stands_for_a_buffer_that_is_not_used(backend):
    k, dim = 3, 40
    h, shared = buffer(backend, np.ones(dim)), buffer(backend, np.ones(dim))
    experts = [buffer(backend, np.full(dim, i + 1)) for i in range(k)]
    params = buffer(backend, [*[2] * 16, 0, 0])
    out = filled(backend, dim)

    def args(n_given):
        return [h, shared, out, *experts[:n_given], *[None] * (16 - n_given), params, dim, k]

    backend.dispatch("moe_combine_residual", args(k))
    np.testing.assert_allclose(out.numpy(), np.full(dim, 1 + 2 * (1 + 2 + 3) + 0.5))
    with pytest.raises(mf.FormatError, match="expert_out2"):
        backend.dispatch("moe_combine_residual", args(k - 1))
    with pytest.raises(mf.FormatError, match="h_mid"):
        backend.dispatch("moe_combine_residual", [None, *args(k)[1:]])


def test_threads_share_a_backend(backend):
    failures = []

    def work(seed):
        try:
            for n in range(1, 60):
                add = Add(backend, n + seed)
                backend.dispatch("residual_add", add.args, wait=bool(n % 3))
                np.testing.assert_array_equal(add.out.numpy(), add.expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert backend.pipeline_count == 1


def test_many_threads_may_wait_for_one_command(backend):
    with backend.commands(wait=False) as commands:
        out = record_slow(commands, backend, n=5)
    seen = []
    threads = [
        threading.Thread(target=lambda: (commands.wait(), seen.append(out.numpy()[0])))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [SLOW_DIM] * 6


def test_python_runs_while_a_command_is_awaited(backend):
    with backend.commands(wait=False) as commands:
        record_slow(commands, backend, n=20)
    waiter = threading.Thread(target=commands.wait)
    waiter.start()
    turns = 0
    while waiter.is_alive() and turns < 1000:
        turns += 1
        waiter.join(0.0005)
    waiter.join()
    assert turns > 5  # one or two, were the GIL held


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


@pytest.mark.parametrize("eps", [np.uint32(1), "1", None, True, 1e39, 10**400, [1.0]])
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


@pytest.mark.parametrize("device", DEVICES)
def test_ctrl_c_ends_the_waiting_and_not_the_command(device):
    script = f"""
import os, signal, sys, threading
sys.path.insert(0, {os.path.dirname(__file__)!r})
import numpy as np, moeflux as mf
from test_backend import SLOW_DIM, record_slow
backend = mf.Backend({device!r})
with backend.commands(wait=False) as commands:
    out = record_slow(commands, backend, n=400)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    commands.wait()
except KeyboardInterrupt:
    print("interrupted", commands.done)
assert out.numpy()[0] == SLOW_DIM
print("whole")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["interrupted", "False", "whole"], done.stderr
