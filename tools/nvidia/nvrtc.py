"""NVRTC by ctypes: CUDA C++ to machine code, on any machine."""

from __future__ import annotations

import ctypes as C
import glob
import os
import sys
from functools import cache
from pathlib import Path

_HEADER = Path(__file__).with_name("metal_stdlib.h")
_OPTIONS = ("--std=c++20", "-default-device", "-lineinfo", "-w")


class NvrtcError(Exception):
    """There is no NVRTC, or it refused a source: its log."""


@cache
def library() -> C.CDLL:
    """The library of $NVRTC, of NVIDIA's wheels or of a toolkit. Raises NvrtcError."""
    places = [os.environ.get("NVRTC", "")]
    for folder in sys.path:
        places += sorted(glob.glob(f"{folder}/nvidia/*/lib/libnvrtc.so.*"), reverse=True)
    places += sorted(glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.*"), reverse=True)
    for place in [p for p in places if p and Path(p).is_file()]:
        for builtins in glob.glob(f"{Path(place).parent}/libnvrtc-builtins.so*"):
            C.CDLL(builtins, C.RTLD_GLOBAL)  # a wheel's folder is not on the loader's path
        return C.CDLL(place)
    raise NvrtcError("no libnvrtc: expected NVRTC=PATH, the wheel nvidia-cuda-nvrtc or a toolkit")


def compile_cuda(source: str, arch: str) -> bytes:
    """Machine code of `source` for `arch`, as "sm_90". Raises NvrtcError."""
    nvrtc = library()
    program = C.c_void_p()
    names, bodies = ((C.c_char_p * 1)(x) for x in (b"metal_stdlib.h", _HEADER.read_bytes()))
    _check(
        nvrtc.nvrtcCreateProgram(C.byref(program), source.encode(), b"shaders.cu", 1, bodies, names)
    )
    try:
        options = [o.encode() for o in (*_OPTIONS, f"--gpu-architecture={arch}")]
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (C.c_char_p * len(options))(*options)
        )
        if status:
            log = _get(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise NvrtcError(log.rstrip(b"\0").decode(errors="replace"))
        return _get(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(C.byref(program))


def _get(size, get, program) -> bytes:
    n = C.c_size_t()
    _check(size(program, C.byref(n)))
    buffer = C.create_string_buffer(n.value)
    _check(get(program, buffer))
    return buffer.raw


def _check(status: int) -> None:
    if status:
        raise NvrtcError(f"NVRTC: status {status}")
