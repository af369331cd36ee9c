"""Errors in Objective-C++ and C++ that a Mac's compiler would refuse are refused here."""

import pytest
from check_wheel import ROOT

METAL = "csrc/device/metal/"
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / METAL).glob("*.mm"))
FILE = "csrc/io/file.cpp"

# file, text, replacement, what the compiler says
ERRORS = {
    "misspelt selector": (
        "library.mm", "newFunctionWithName:name.get()]", "newFunctionNamed:name.get()]",
        "newFunctionNamed:",
    ),
    "argument of another type": (
        "compile.mm", "computeFunction = function;", "computeFunction = device;",
        "MTLFunction",
    ),
    "misspelt enumerator": (
        "buffer.mm", "MTLResourceStorageModeShared", "MTLResourceStorageModeSharing",
        "MTLResourceStorageModeSharing",
    ),
    "newer than macOS 14, unguarded": (
        "compile.mm", "if (@available(macOS 15, *)) ", "", "macOS 15",
    ),
    "assignment to a property that is read-only": (
        "device.mm", "id<MTLDevice> device = context->device.get();",
        "id<MTLDevice> device = context->device.get(); device.name = nil;", "readonly",
    ),
}  # fmt: skip


def test_there_are_sources():
    assert len(SOURCES) >= 4


@pytest.mark.parametrize("file", SOURCES)
def test_a_copy_compiles(compile_copy, file):
    process = compile_copy(file, (ROOT / file).read_text())
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_refused(compile_copy, name):
    file, text, replacement, message = ERRORS[name]
    source = (ROOT / METAL / file).read_text()
    assert text in source
    process = compile_copy(METAL + file, source.replace(text, replacement))
    assert process.returncode != 0
    assert "error:" in process.stderr
    assert message in process.stderr


# Functions that Apple's libraries have only since macOS 14.4 and 26.
@pytest.mark.parametrize(
    ("include", "statement"),
    [
        ("dispatch/dispatch.h", "dispatch_allow_send_signals(1)"),
        ("charconv", "float x; std::from_chars(nullptr, nullptr, x)"),
    ],
)
def test_library_function_newer_than_macos_14_is_refused(compile_copy, include, statement):
    source = (ROOT / FILE).read_text()
    planted = f"#include <{include}>\n{source}\nvoid planted() {{ {statement}; }}\n"
    process = compile_copy(FILE, planted)
    assert process.returncode != 0
    assert "introduced in macOS" in process.stderr or "unavailable" in process.stderr
