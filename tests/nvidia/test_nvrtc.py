"""The shaders as CUDA: what NVRTC makes of them, on any machine. `make nvidia-test`."""

import pytest

from msl.library import parse_library, read_library
from msl.source import shader_files
from nvidia.emit_cuda import emit_cuda
from nvidia.geometry import GeometryError
from nvidia.kernels import Kernels
from nvidia.nvrtc import NvrtcError, compile_cuda, library
from nvidia.speed import Same
from nvidia.speed_cases import CASES, matvec

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
def test_a_case_is_what_its_kernels_take(shaders, name):
    """Numbers where scalars are, buffers that are large enough, a grid that the kernel allows."""
    kernels = Kernels(shaders, None, "sm_90")
    step = CASES[name]()
    assert step.flops > 0 and step.rotated
    for dispatch in step.dispatches:
        kernel = kernels.by_name[dispatch.kernel]
        assert [b.scalar for b in kernel.bindings] == [
            isinstance(a, int | float) for a in dispatch.args
        ]
        grid, threads = dispatch.geometry(kernel)
        assert grid > 0 and grid % threads == 0
        assert set(dispatch.constants) <= {constant.name for constant in kernel.constants}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {0: Same("words", "u32", 4096 * 8)},
            "W: expected 65536 elements or more, found 32768",
        ),
        ({6: 4090}, "in_dim % .* does not hold"),
    ],
)
def test_a_case_that_reaches_past_a_buffer_is_refused(shaders, changes, message):
    (dispatch,) = matvec("dequant_matvec_4bit_v4", 128, 4096)().dispatches
    for place, arg in changes.items():
        dispatch.args[place] = arg
    kernel = next(k for k in shaders.kernels if k.name == dispatch.kernel)
    with pytest.raises(GeometryError, match=message):
        dispatch.geometry(kernel)
