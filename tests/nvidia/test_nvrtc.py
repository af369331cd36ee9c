"""The shaders as CUDA: what NVRTC makes of them, on any machine. `make nvidia-test`."""

import numpy as np
import pytest

from msl.library import parse_library, read_library
from msl.source import shader_files
from nvidia.emit_cuda import emit_cuda
from nvidia.kernels import Kernels
from nvidia.nvrtc import NvrtcError, compile_cuda, library
from nvidia.speed_cases import CASES

SNIPPET = """\
#line 1 "snippet.metal"
#include <metal_stdlib>
using namespace metal;
/// @elements o n
/// @threadgroup any
kernel void k(device float* o [[buffer(0)]], constant uint& n [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {
  o[i] = BODY;
}
"""


@pytest.fixture(scope="session")
def nvrtc():
    try:
        return library()
    except NvrtcError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shaders(pytestconfig):
    return read_library(shader_files(pytestconfig.rootpath / "shaders"))


def test_every_kernel_compiles(nvrtc, shaders):
    kernels = Kernels(shaders, None, "sm_90")
    keys = {kernels.key(name, {}, 0) for name in kernels.by_name}
    kernels.compile(keys)
    assert kernels.images.keys() == keys
    for (name, _, _), image in kernels.images.items():
        assert image.startswith(b"\x7fELF") and f"run_{name}\0".encode() in image


def test_function_constants_are_constants(nvrtc, shaders):
    """Another value, other code: nothing of it is read at run time."""
    kernels = Kernels(shaders, None, "sm_90")
    three, four = (kernels.key("qmatvec_bf16_f32", {"Bits": bits}, 0) for bits in (3, 4))
    kernels.compile([three, four])
    assert kernels.images[three] != kernels.images[four]


def test_an_error_has_its_place_in_the_shader(nvrtc):
    source = emit_cuda(parse_library(SNIPPET.replace("BODY", "nobody(n)")), {"k": 32}, {})
    with pytest.raises(NvrtcError, match=r'snippet.metal\(7\): error: identifier "nobody"'):
        compile_cuda(source, "sm_90")


@pytest.mark.parametrize("name", CASES)
def test_a_case_fits_its_kernels(shaders, name):
    """As many arguments as bindings, numbers where scalars are, a grid of whole threadgroups."""
    kernels = Kernels(shaders, None, "sm_90")
    step = CASES[name]()
    assert step.flops > 0 and step.rotated
    for dispatch in step.dispatches:
        kernel = kernels.by_name[dispatch.kernel]
        assert len(kernels.slots(dispatch.kernel, [0] * len(kernel.bindings))) > 0
        for binding, arg in zip(kernel.bindings, dispatch.args, strict=True):
            is_number = isinstance(arg, int | float) and not isinstance(arg, np.ndarray)
            assert binding.scalar == is_number, (dispatch.kernel, binding.name)
        assert dispatch.grid % dispatch.threads == 0
        assert set(dispatch.constants) <= {constant.name for constant in kernel.constants}
