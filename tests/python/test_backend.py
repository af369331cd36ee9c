"""Backend and Buffer as a user meets them."""

import contextlib
import gc
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

import moeflux as mf
from moeflux.gpu.backend import Limits
from support.devices import DEVICES, Add, buffer

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


def test_all_kernels_are_those_of_the_contract():
    assert CONTRACT == mf.ALL_KERNELS
    assert list(mf.ALL_KERNELS) == sorted(mf.ALL_KERNELS)


def test_the_library_has_the_contract_and_is_sorted(backend):
    assert set(mf.ALL_KERNELS) <= set(backend.kernels)
    assert list(backend.kernels) == sorted(set(backend.kernels))


def test_backend_takes_metal_where_there_is_one_and_else_the_host():
    try:
        mf.Backend("metal")
    except mf.NoDeviceError as error:
        assert mf.Backend().kind == "host"
        assert "no Metal device" in str(error)
        assert "metal" not in DEVICES
    else:
        assert mf.Backend().kind == "metal"


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
    for _ in range(8):
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


# ---- documentation -----------------------------------------------------------------------------


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs/gpu.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(code, "docs/gpu.md", "exec"), {})
    numbers = [float(word) for word in shown.getvalue().strip("[]\n").split()]
    x = np.arange(8.0)
    np.testing.assert_allclose(numbers, x / np.sqrt(np.mean(x * x) + 1e-6), rtol=1e-6)
