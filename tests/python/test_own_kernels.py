"""Kernels of one's own source and recordings, where a device has no compiler and no recorder.

Where it has: tests/metal_standin/test_own_kernels.py.
"""

import numpy as np
import pytest

import moeflux as mf
from support.devices import DEVICES, Add

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.skipif("metal" in DEVICES, reason="Metal has a compiler")
def test_a_device_without_a_compiler_refuses_by_name(device, tmp_path):
    backend = mf.Backend(device)
    with pytest.raises(mf.GpuError, match=f"shaders: metal; found {device}, which has the kernels"):
        backend.compile("kernel void f() {}")
    with pytest.raises(mf.GpuError, match=f"can be recorded: metal; found {device}"):
        backend.capture(tmp_path / "x.gputrace").__enter__()


@pytest.mark.parametrize("source", [7, None, b"x", "\udcff", "x" * ((1 << 24) + 1)])
def test_what_is_no_source_is_refused_before_any_compiler_sees_it(device, source):
    with pytest.raises(mf.FormatError, match="source"):
        mf.Backend(device).compile(source)


def test_a_pipeline_is_dispatched_as_its_name_is(device):
    backend = mf.Backend(device)
    add = Add(backend)
    pipeline = backend.pipeline("residual_add")
    assert pipeline.checked
    backend.dispatch(pipeline, add.args)
    np.testing.assert_array_equal(add.out.numpy(), add.expected)
    with pytest.raises(mf.FormatError, match="residual_add: expected 4 arguments"):
        backend.dispatch(pipeline, add.args[:3])
    with pytest.raises(mf.FormatError, match="expected no constants"):
        backend.dispatch(pipeline, add.args, constants={"Bits": 4})
    other = mf.Backend(device)
    with pytest.raises(mf.FormatError, match=r"a pipeline of (another|this) device"):
        other.dispatch(pipeline, Add(other).args)
