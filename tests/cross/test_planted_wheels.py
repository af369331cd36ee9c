"""Errors planted in the wheel's files and in the bytes of its module are found."""

import struct
from pathlib import Path

import check_wheel
import pytest
from check_wheel import ROOT, shader_files


def test_the_wheel_as_built_has_no_problem(wheel):
    assert check_wheel.problems(wheel) == []


def test_a_copy_has_no_problem(plant):
    assert check_wheel.problems(plant()) == []


@pytest.mark.parametrize("tag", ["macosx_13_0_arm64", "macosx_14_0_x86_64", "linux_x86_64"])
def test_wrong_platform_in_the_name(plant, wheel, tag):
    found = check_wheel.problems(plant(name=wheel.name.replace(check_wheel.PLATFORM, tag)))
    assert any(problem.startswith("tag: expected") for problem in found)


def test_wheel_file_of_another_tag(plant):
    def change(path, content):
        return content.replace(b"_arm64", b"_x86_64") if path.endswith("/WHEEL") else content

    (found,) = check_wheel.problems(plant(change))
    assert found.startswith("tag: the WHEEL file")


@pytest.mark.parametrize(
    "path", ["tests/conftest.py", "moeflux/libmetal_standin.so", "moeflux/tests/a.py", "a.metal"]
)
def test_stray_file(plant, path):
    assert check_wheel.problems(plant(added=[path])) == [
        f"files: {path} does not belong into the wheel"
    ]


def test_missing_file(plant):
    def change(path, content):
        return None if path == "moeflux/demo/model.safetensors" else content

    assert check_wheel.problems(plant(change)) == [
        "files: moeflux/demo/model.safetensors is missing"
    ]


def test_missing_module(plant):
    found = check_wheel.problems(plant(lambda path, bytes_: None if ".so" in path else bytes_))
    assert found == [f"files: {check_wheel.module_name()} is missing"]


def test_module_of_this_machine(plant_module):
    found = check_wheel.problems(plant_module(Path("/bin/true")))
    assert found == ["header: not one Mach-O image"]


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_changed_byte_breaks_the_signature(plant_module, at):
    def change(image):
        place = int(len(image) * at)
        return image[:place] + bytes([image[place] ^ 1]) + image[place + 1 :]

    found = check_wheel.problems(plant_module(change))
    assert any(problem.startswith("signature: page hashes differ") for problem in found)


def _patched(image, old, new):
    assert image.count(old) >= 1
    assert len(old) == len(new)
    return image.replace(old, new, 1)


LC_BUILD_VERSION, MACOS = 0x32, 1


def _build_version(macos):
    return struct.pack("<4I", LC_BUILD_VERSION, 32, MACOS, macos << 16)


# Offsets of the Mach-O header: cputype at 4, filetype at 12, flags at 24.
BYTES = {
    "x86-64": (
        lambda image: image[:4] + struct.pack("<I", 0x01000007) + image[8:],
        "header: expected arm64",
    ),
    "a shared library": (
        lambda image: image[:12] + struct.pack("<I", 6) + image[16:],
        "header: expected MH_BUNDLE",
    ),
    "flat namespace": (
        lambda image: image[:24] + bytes([image[24] & 0x7F]) + image[25:],
        "header: no two-level namespace",
    ),
    "minimum macOS 15": (
        lambda image: _patched(image, _build_version(14), _build_version(15)),
        "header: expected minimum macOS",
    ),
    "another library of Apple's": (
        lambda image: _patched(image, b"CoreGraphics.framework/", b"CoreGraphix_.framework/"),
        "libraries: ",
    ),
    "a shader without a line": (
        lambda image: _patched(image, b"kernel void swiglu_fused", b"kernel void swiglu_fuser"),
        "shaders: ",
    ),
    "Python name misspelt": (
        lambda image: _patched(image, b"\0_PyErr_SetString\0", b"\0_PyErr_SetStrong\0"),
        "imports: _PyErr_SetStrong",
    ),
}


@pytest.mark.parametrize("name", BYTES)
def test_changed_module(plant_module, name):
    change, message = BYTES[name]
    found = check_wheel.problems(plant_module(change))
    assert any(problem.startswith(message) for problem in found), found


def test_the_shaders_are_those_of_this_checkout():
    assert len(shader_files(ROOT / "shaders")) > 1
