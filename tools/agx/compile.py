"""A library through clang, the SPIR-V translator and Mesa: statistics and assembly by kernel."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msl.model import Library

from .emit_opencl import emit_opencl
from .stdlib import stdlib

_CLANG = ("clang-15", "-x", "clcpp", "-cl-std=clc++2021", "-cl-no-stdinc", "-target",
          "spir64-unknown-unknown", "-emit-llvm", "-S", "-O1", "-fno-unroll-loops",
          "-fno-vectorize", "-fno-slp-vectorize", "-fno-discard-value-names",
          "-Wno-everything")  # fmt: skip
_LOOP = re.compile(r", !llvm\.loop !\d+")
_FREEZE = re.compile(r"^(\s+%[\w.]+ = )freeze (.+?) (%[\w.]+)$", re.M)
_STATISTICS = re.compile(
    r"SHADER-DB: .*?(\d+) inst, .*?(\d+) regs, .*?(\d+) scratch, (\d+) threads, "
    r".*?(\d+):(\d+) spills"
)
_SHADER = re.compile(r"^name: (\w+)$", re.M)
_PROGRAM = re.compile(r"^block0 \{$", re.M)
_FINAL = 2  # of the programs that a shader prints: as made, optimised, with registers


class AgxError(Exception):
    """A stage of the chain refused the library: its text."""


@dataclass(frozen=True)
class Program:
    """A kernel for Apple's G13 GPU (M1)."""

    name: str
    instructions: int
    registers: int  # of 16 bits, a thread
    threads: int  # of a core at once: 1024 at most
    spilled: int  # bytes of scratch, spills and fills
    assembly: str


def find_compiler() -> Path | None:
    """$ASAHI_CLC, or what build.sh has made. Raises AgxError where the first is not there."""
    given = os.environ.get("ASAHI_CLC")
    path = Path(given or Path(__file__).parents[2] / "build/agx/asahi_clc").resolve()
    if given and not path.is_file():
        raise AgxError(f"expected a compiler at ASAHI_CLC={given}, found none")
    return path if path.is_file() else None


def compile_library(
    library: Library, constants: Mapping[str, int], compiler: Path
) -> dict[str, Program]:
    """All kernels of the library, by name. Raises AgxError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metal_stdlib").write_text(stdlib(), encoding="utf-8")
        source = folder / "library.clcpp"
        source.write_text(emit_opencl(library, constants), encoding="utf-8")
        ir, bitcode, spirv = (folder / f"library.{suffix}" for suffix in ("ll", "bc", "spv"))
        _run([*_CLANG, "-I", name, str(source), "-o", str(ir)])
        ir.write_text(_translatable(ir.read_text(encoding="utf-8")), encoding="utf-8")
        _run(["llvm-as-15", str(ir), "-o", str(bitcode)])
        _run(["llvm-spirv-15", "--spirv-max-version=1.3", str(bitcode), "-o", str(spirv)])
        outputs = [str(folder / "out.h"), str(folder / "out.c")]
        done = _run([str(compiler), str(spirv), *outputs], debug="shaderdb,shaders,internal")
    programs = {p.name: p for p in _programs(done.stdout, done.stderr)}
    missing = {k.name for k in library.kernels} ^ programs.keys()
    if missing:
        raise AgxError(f"kernels that are missing or nobody's: {sorted(missing)}")
    return programs


def _translatable(ir: str) -> str:
    """Without what llvm-spirv-15 does not know: loop metadata, freeze."""
    return _FREEZE.sub(r"\1select i1 true, \2 \3, \2 \3", _LOOP.sub("", ir))


def _run(command: list[str], debug: str = "") -> subprocess.CompletedProcess[str]:
    env = os.environ | {"AGX_MESA_DEBUG": debug}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise AgxError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done


def _programs(stdout: str, stderr: str) -> list[Program]:
    starts = list(_SHADER.finditer(stdout))
    statistics = _STATISTICS.findall(stderr)
    if len(starts) != len(statistics):
        raise AgxError(f"{len(starts)} shaders and {len(statistics)} lines of statistics")
    out = []
    for match, numbers, following in zip(starts, statistics, [*starts[1:], None], strict=True):
        text = stdout[match.end() : following.start() if following else None]
        instructions, registers, scratch, threads, spills, fills = map(int, numbers)
        assembly = "block0 {\n" + _PROGRAM.split(text)[1 + _FINAL].split("\nshader:")[0]
        out.append(
            Program(match[1], instructions, registers, threads, scratch + spills + fills, assembly)
        )
    return out
