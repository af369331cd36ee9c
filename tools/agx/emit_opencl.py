"""The library as C++ for OpenCL, which clang turns into SPIR-V.

Bodies stay as they are, but for the text of literals. A kernel takes pointers and numbers; what the
GPU would fill in becomes a variable of the body, and so does a struct of arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from msl.emit_host import float_edits
from msl.model import Block, Buffer, Builtin, Edit, Function, Kernel, Library, apply_edits

_DEFAULT_THREADS = 128  # of a kernel whose default is not a number
_POSITIONS = {
    "thread_position_in_grid": "cl::get_global_id({})",
    "threadgroup_position_in_grid": "cl::get_group_id({})",
    "thread_position_in_threadgroup": "cl::get_local_id({})",
    "threadgroups_per_grid": "cl::get_num_groups({})",
    "threads_per_grid": "cl::get_global_size({})",
    "thread_index_in_threadgroup": "cl::get_local_id(0)",
    "thread_index_in_simdgroup": "cl::get_sub_group_local_id()",
    "simdgroup_index_in_threadgroup": "cl::get_sub_group_id()",
}


def threads_of(kernel: Kernel) -> int:
    """Threads of a threadgroup that the kernel is compiled for."""
    if isinstance(kernel.threadgroup, int):
        return kernel.threadgroup
    number = re.fullmatch(r"Wide\{(\d+)\}", kernel.default_threadgroup or "")
    return int(number[1]) if number else _DEFAULT_THREADS


def emit_opencl(library: Library, constants: Mapping[str, int]) -> str:
    """The text; function constants have the values of `constants`, else their defaults."""
    kernels = {kernel.name: kernel for kernel in library.kernels}
    edits = library.edits + float_edits(library)
    for constant in library.constants:
        end = next(t for t in library.tokens if t.start > constant.token.start and t.text == ";")
        value = constants.get(constant.name, constant.default)
        edits.append(Edit(end.start, end.start, f" = {value}"))
    for function in library.functions:
        if function.is_kernel:
            edits = _kernel(library, function, kernels[function.name], edits)
        else:
            edits += _of_variables(library, function)
    return apply_edits(library.text, edits)


def _kernel(library: Library, function: Function, kernel: Kernel, edits: list[Edit]) -> list[Edit]:
    first, last = (library.tokens[i] for i in function.parameters)
    parameters, variables = [], []
    for p in kernel.parameters:
        if isinstance(p, Builtin):
            variables.append(_variable(p, threads_of(kernel)))
        elif isinstance(p, Block):
            parameters += [f"{f.type} args_{f.name}" for f in p.fields]
            values = ", ".join(f"args_{f.name}" for f in p.fields)
            variables.append(f"const {p.type} {p.name} = {{{values}}};")
        else:
            parameters.append(_parameter(p))
    start, body = library.tokens[function.first], library.tokens[function.body[0]]
    size = f"__attribute__((reqd_work_group_size({threads_of(kernel)}, 1, 1))) "
    kept = [e for e in edits if not first.start <= e.start < last.end]
    return [
        *kept,
        Edit(start.start, start.start, size),
        Edit(first.start, last.end, f"({', '.join(parameters)})"),
        Edit(body.end, body.end, " " + " ".join(variables)),
    ]


def _of_variables(library: Library, function: Function) -> list[Edit]:
    """Parameters that take a kernel's struct of arguments, which is a variable of its body here."""
    blocks = {p.type for k in library.kernels for p in k.parameters if isinstance(p, Block)}
    tokens = library.tokens[slice(*function.parameters)]
    return [Edit(token.start, token.end, "const")
            for token, following in pairwise(tokens)
            if token.text == "constant" and following.text in blocks]  # fmt: skip


def _parameter(p: Buffer) -> str:
    if p.scalar:
        return f"{p.type} {p.name}"
    return f"__global {'' if p.writable else 'const '}{p.type}* {p.name}"


def _variable(p: Builtin, threads: int) -> str:
    sizes = {
        "threads_per_threadgroup": threads,
        "simdgroups_per_threadgroup": threads // 32,
        "threads_per_simdgroup": 32,
    }
    if p.attribute in sizes:
        if p.width > 1:
            raise NotImplementedError(f"{p.name}: [[{p.attribute}]] of several dimensions")
        return f"const uint {p.name} = {sizes[p.attribute]};"
    values = [f"uint({_POSITIONS[p.attribute].format(i)})" for i in range(p.width)]
    if p.width == 1:
        return f"const uint {p.name} = {values[0]};"
    return f"const uint{p.width} {p.name} = uint{p.width}({', '.join(values)});"
