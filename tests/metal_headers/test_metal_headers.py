"""The stand-in's headers are Apple's, and each kind of error in them is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "tests/metal_standin/include"
WHEELS = os.environ["MOEFLUX_METAL_WHEELS"]

# what is wrong: (header, right, wrong, part of the report)
SEEDS = {
    "selector": (
        "Metal/Metal.h",
        "setThreadgroupMemoryLength:(NSUInteger)length",
        "setThreadgroupMemoryLenght:(NSUInteger)length",
        "-[MTLComputeCommandEncoder setThreadgroupMemoryLenght:atIndex:]: ours (v) <- (Q, Q), "
        "no witness knows it",
    ),
    "enumerator": (
        "Metal/Metal.h",
        "MTLCommandBufferStatusError = 5",
        "MTLCommandBufferStatusError = 6",
        "MTLCommandBufferStatusError: ours 6, metal-cpp 5",
    ),
    "option": (
        "Metal/Metal.h",
        "MTLResourceStorageModePrivate = 2 << 4",
        "MTLResourceStorageModePrivate = 3 << 4",
        "MTLResourceStorageModePrivate: ours 48, PyObjC's metadata 32",
    ),
    "enumeration's width": (
        "Metal/Metal.h",
        "NS_ENUM(NSUInteger, MTLDispatchType)",
        "NS_ENUM(uint32_t, MTLDispatchType)",
        "computeCommandEncoderWithDispatchType:]: ours (@) <- (I), metal-cpp (@) <- (Q)",
    ),
    "argument": (
        "Metal/Metal.h",
        "setThreadgroupMemoryLength:(NSUInteger)length",
        "setThreadgroupMemoryLength:(int)length",
        "-[MTLComputeCommandEncoder setThreadgroupMemoryLength:atIndex:]: "
        "ours (v) <- (i, Q), metal-cpp (v) <- (Q, Q)",
    ),
    "result": (
        "Metal/Metal.h",
        "@property(readonly) BOOL hasUnifiedMemory",
        "@property(readonly) NSUInteger hasUnifiedMemory",
        "-[MTLDevice hasUnifiedMemory]: ours (Q) <- (), metal-cpp (B) <- ()",
    ),
    "floating point": (
        "Foundation/Foundation.h",
        "typedef double CFTimeInterval",
        "typedef float CFTimeInterval",
        "-[MTLCommandBuffer GPUStartTime]: ours (f) <- (), metal-cpp (d) <- ()",
    ),
    "owner": (
        "Metal/Metal.h",
        "@property(readonly) NSUInteger threadExecutionWidth;",
        "@property(readonly) NSUInteger maxBufferLength;",
        "-[MTLComputePipelineState maxBufferLength]",
    ),
    "read-only property": (
        "Metal/Metal.h",
        "@property(readonly) NSUInteger length;",
        "@property(readwrite) NSUInteger length;",
        "-[MTLBuffer setLength:]",
    ),
    "block": (
        "Metal/Metal.h",
        "(void (^_Nullable)(void* pointer, NSUInteger length))deallocator",
        "(void (^_Nullable)(void* pointer, int length))deallocator",
        "ours (@) <- (^v, Q, Q, @?<v@?^vi>), metal-cpp (@) <- (^v, Q, Q, @?<v@?^vQ>)",
    ),
    "structure": (
        "Metal/Metal.h",
        "NSUInteger width, height, depth;",
        "NSUInteger width, height, depth, rank;",
        "MTLSize: ours (('width', 'Q'), ('height', 'Q'), ('depth', 'Q'), ('rank', 'Q'))",
    ),
    "structure's order": (
        "Metal/Metal.h",
        "NSUInteger width, height, depth;",
        "NSUInteger width, depth, height;",
        "MTLSize: ours (('width', 'Q'), ('depth', 'Q')",
    ),
    "function": (
        "Metal/Metal.h",
        "MTLCreateSystemDefaultDevice(void)",
        "MTLCreateDefaultSystemDevice(void)",
        "MTLCreateDefaultSystemDevice: ours (@) <- (), no witness knows it",
    ),
    "external variable": (
        "Metal/Metal.h",
        "MTLLibraryErrorDomain;",
        "MTLLibraryErrorsDomain;",
        "MTLLibraryErrorsDomain: ours an external variable, no witness knows it",
    ),
    "Foundation's selector": (
        "Foundation/Foundation.h",
        "- (void)drain;",
        "- (void)drian;",
        "-[NSAutoreleasePool drian]",
    ),
}


def run_check(include):
    return subprocess.run(
        [sys.executable, "-m", "check_metal_headers", "--include", include, "--wheels", WHEELS],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
        capture_output=True,
        text=True,
    )


def test_our_headers_are_apples():
    result = run_check(INCLUDE)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = {
        line.split(maxsplit=1)[1]: int(line.split()[0]) for line in result.stdout.splitlines()
    }
    assert counts["declarations confirmed by metal-cpp"] > 80
    assert counts["declarations confirmed by PyObjC's metadata"] > 70
    assert counts["declarations confirmed by the SDK's protocol tables"] > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_an_error_is_found(seed, tmp_path):
    header, right, wrong, report = SEEDS[seed]
    include = shutil.copytree(INCLUDE, tmp_path / "include")
    text = (include / header).read_text()
    assert text.count(right) == 1
    (include / header).write_text(text.replace(right, wrong))
    result = run_check(include)
    assert result.returncode == 1, result.stderr
    assert report in result.stdout


def compile_for_macos(source, include=INCLUDE):
    return subprocess.run(
        [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-macos.14.0", "-std=c++20",
         "-Werror", "-Wall", "-I", include, "-c", source, "-o", source.with_suffix(".o")],
        capture_output=True, text=True,
    )  # fmt: skip


def test_what_macos_14_lacks_must_be_guarded(tmp_path):
    source = tmp_path / "mode.mm"
    for guard, accepted in (("if (@available(macOS 15, *)) ", True), ("", False)):
        source.write_text(
            "#import <Metal/Metal.h>\n"
            f"void f(MTLCompileOptions* options) {{ {guard}options.mathMode = MTLMathModeSafe; }}\n"
        )
        result = compile_for_macos(source)
        assert (result.returncode == 0) == accepted, result.stderr
    assert "unguarded-availability-new" in result.stderr


def test_what_the_headers_do_not_declare_does_not_compile(tmp_path):
    source = tmp_path / "call.mm"
    source.write_text(
        "#import <Metal/Metal.h>\nvoid f(id<MTLDevice> d) { [d newCommandQueues]; }\n"
    )
    result = compile_for_macos(source)
    assert result.returncode != 0
    assert "newCommandQueues" in result.stderr
