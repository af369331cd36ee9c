"""The kernels' oracles on an NVIDIA GPU: real SIMD groups. `make nvidia-test`."""

import pytest

from moeflux.doctor.kernels import cases
from msl.library import parse_library, read_library
from msl.source import shader_files
from nvidia.check import check, chosen
from nvidia.driver import Device, NoGpuError
from nvidia.kernels import Kernels
from nvidia.nvrtc import NvrtcError, library
from nvidia.speed import Bench, Dispatch, Rotated, Same, Step, table

DRAWN = 4  # shapes of a kernel


@pytest.fixture(scope="session")
def device():
    try:
        library()
        return Device()
    except (NoGpuError, NvrtcError) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shaders(pytestconfig):
    return read_library(shader_files(pytestconfig.rootpath / "shaders"))


@pytest.fixture(scope="session")
def kernels(device, shaders):
    return Kernels(shaders, device, device.arch)


@pytest.mark.parametrize("name", sorted(cases.KERNELS))
def test_oracle(kernels, name):
    todo = chosen(kernels, [name], DRAWN, None)
    assert [(str(case), problem) for case, problem, _ in check(kernels, todo) if problem] == []


def test_a_wrong_kernel_is_found(device, shaders):
    text = shaders.text.replace("out[i] = a[i] + b[i];", "out[i] = a[i] - b[i];")
    assert text != shaders.text
    wrong = Kernels(parse_library(text), device, device.arch)
    (found,) = check(wrong, [cases.make("residual_add", cases.KERNELS["residual_add"].shapes[0])])
    assert "are wrong" in found[1]


def test_a_fault_is_told_and_the_next_case_runs(device, shaders):
    """Reads far behind a buffer."""
    text = shaders.text.replace("out[i] = a[i] + b[i];", "out[i] = a[i + (ulong(1) << 40)];")
    assert text != shaders.text
    wrong = Kernels(parse_library(text), device, device.arch)
    case = cases.make("residual_add", cases.KERNELS["residual_add"].shapes[0])
    other = cases.make("sigmoid_gate", cases.KERNELS["sigmoid_gate"].shapes[0])
    fault, fine = check(wrong, [case, other])
    assert "CUDA_ERROR" in fault[1] and fine[1] == ""


def test_a_step_is_timed(device, shaders):
    n = 1 << 24
    rows = [Rotated("f32", n), Rotated("f32", n), Same("out", "f32", n), n]
    step = Step([Dispatch("residual_add", rows, n, 256)], flops=float(n))
    kernels = Kernels(shaders, device, device.arch)
    ((name, speed),) = table(Bench(kernels), {"add": step})
    assert name == "add" and speed.microseconds > speed.gap > 0
    assert speed.gigabytes == pytest.approx(8 * speed.teraflops * 1e3)
