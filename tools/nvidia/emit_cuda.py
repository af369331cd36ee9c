"""The library as CUDA C++: bodies stay as they are, line for line.

A kernel becomes a function, and another one, run_ and its name, launches it. Metal's threadgroups
may be smaller at the end of a grid; CUDA's blocks may not, so that these are a launch of their own:
`Launch` says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby

from msl.emit_host import float_edits
from msl.model import Block, Buffer, Builtin, Edit, Kernel, Library, apply_edits

_QUALIFIERS = {
    "device": "",
    "thread": "",
    "threadgroup": "",
    "constant": "const",
    "kernel": "static __forceinline__",
    "inline": "__forceinline__",
}
_INCLUDE = re.compile(r"^#[ \t]*include[ \t]*<metal_stdlib>.*$", re.M)
_VALUES = {
    "thread_position_in_grid": "(blockIdx.x + launch.first) * launch.full + threadIdx.x",
    "threadgroup_position_in_grid": "blockIdx.x + launch.first",
    "thread_position_in_threadgroup": "threadIdx.x",
    "threads_per_threadgroup": "blockDim.x",
    "threadgroups_per_grid": "launch.groups",
    "threads_per_grid": "launch.grid",
    "thread_index_in_threadgroup": "threadIdx.x",
    "thread_index_in_simdgroup": "threadIdx.x % 32",
    "simdgroup_index_in_threadgroup": "threadIdx.x / 32",
    "simdgroups_per_threadgroup": "(blockDim.x + 31) / 32",
    "threads_per_simdgroup": "32",
}
_HEAD = """\
#include "metal_stdlib.h"
struct Launch { unsigned first, full, groups, grid; };  // LAUNCH of driver.py
namespace metal {
namespace moeflux_shaders {
"""
_TAIL = "}  // namespace moeflux_shaders\n}  // namespace metal\n"


def emit_cuda(library: Library, threads: Mapping[str, int], constants: Mapping[str, int]) -> str:
    """CUDA of the kernels in `threads`, each for threadgroups of so many threads at most."""
    edits = library.edits + float_edits(library) + _edits(library, constants)
    text = _INCLUDE.sub("", apply_edits(library.text, edits))
    wrappers = [_wrapper(k, threads[k.name]) for k in library.kernels if k.name in threads]
    return "".join([_HEAD, text, '\n#line 1 "wrappers"\n', *wrappers, _TAIL])


def _edits(library: Library, constants: Mapping[str, int]) -> list[Edit]:
    edits: list[Edit] = []
    done: set[int] = set()  # offsets of qualifiers inside an edit
    for kernel in library.kernels:
        for (start, end), arrays in groupby(kernel.arrays, key=lambda array: array.declared):
            names = [f"__shared__ {a.type} {a.name}{a.dimensions};" for a in arrays]
            edits.append(Edit(start, end, " ".join(names)))
            done.add(start)
    for constant in library.constants:
        end = next(t for t in library.tokens if t.start > constant.token.start and t.text == ";")
        value = constants.get(constant.name, constant.default)
        edits.append(Edit(constant.token.start, constant.token.end, "constexpr"))
        edits.append(Edit(end.start, end.start, f" = {value}u"))
        done.add(constant.token.start)
    for token in library.tokens:
        if token.kind == "name" and token.text in _QUALIFIERS and token.start not in done:
            edits.append(Edit(token.start, token.end, _QUALIFIERS[token.text]))
    return edits


def _wrapper(kernel: Kernel, threads: int) -> str:
    parameters, arguments = [], []
    for index, p in enumerate(kernel.parameters):
        if isinstance(p, Builtin):
            if p.width > 1:
                raise NotImplementedError(f"{kernel.name}: [[{p.attribute}]] of several dimensions")
            arguments.append(_VALUES[p.attribute])
            continue
        parameters.append(f"{_type(p)} a{index}")
        arguments.append(f"a{index}")
    parameters.append("Launch launch")
    return (
        f'extern "C" __global__ void __launch_bounds__({threads}) run_{kernel.name}'
        f"({', '.join(parameters)}) {{\n  {kernel.name}({', '.join(arguments)});\n}}\n"
    )


def _type(p: Buffer | Block) -> str:
    if isinstance(p, Block) or p.scalar:
        return p.type
    return f"{'' if p.writable else 'const '}{p.type}*"
