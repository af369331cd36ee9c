"""Declarations of <metal_stdlib> for the lint: what shaders/ may use, in C++ for OpenCL.

Clang's OpenCL C++ mode has the address-space rules from which Metal's front end was derived: a
pointer to `device` memory does not become one to `threadgroup` memory. Only declarations: nothing
is compiled.
"""

from __future__ import annotations

_FLOATING = ("float", "half")
_INTEGERS = ("int", "uint", "short", "ushort", "char", "uchar")
_SHUFFLED = ("float", "half", "int", "uint")

_HEAD = """\
#pragma once
#pragma OPENCL EXTENSION __cl_clang_non_portable_kernel_param_types : enable
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#define local name_local
#define global name_global
#define generic name_generic
#define private name_private
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef ulong ulong2 __attribute__((ext_vector_type(2)));
#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
#define MOEFLUX_MATRICES 1
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX 3.402823466e+38f
#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f
"""

_NAMED_PRECISION = ("exp", "log", "rsqrt", "sin", "cos")
_UNARY = (*_NAMED_PRECISION, "fabs")
_BINARY = ("fmin", "fmax", "min", "max")


def stdlib() -> str:
    """The text of the header."""
    lines = [_HEAD]
    for name in (*_FLOATING, *_INTEGERS):
        element = "signed char" if name == "char" else name
        lines += [
            f"typedef {element} {name}{n} __attribute__((ext_vector_type({n})));" for n in (2, 3, 4)
        ]
    # A vector of bool is one of int to OpenCL.
    lines += [f"typedef int bool{n} __attribute__((ext_vector_type({n})));" for n in (2, 3, 4)]
    lines += ["namespace metal {", *_constructors(), *_math(), *_integer_math(), *_groups(), "}"]
    for name in (*_FLOATING, *_INTEGERS, "bool"):
        lines += [f"#define {name}{n}(...) metal::make_{name}{n}(__VA_ARGS__)" for n in (2, 3, 4)]
    return "\n".join(lines) + "\n"


def _constructors() -> list[str]:
    """`float4(..)` is a cast or a list to OpenCL: macros turn it into these functions."""
    lines = []
    for name in (*_FLOATING, *_INTEGERS, "bool"):
        one = {"char": "signed char", "bool": "int"}.get(name, name)
        for n in (2, 3, 4):
            vector = f"{name}{n}"
            lines.append(
                f"{vector} make_{vector}({one}); template <class V> {vector} make_{vector}(V);"
            )
            for parts in _partitions(n):
                types = ", ".join(one if p == 1 else f"{name}{p}" for p in parts)
                lines.append(f"{vector} make_{vector}({types});")
    return lines


def _partitions(n: int) -> list[tuple[int, ...]]:
    """The ways to write n as an ordered sum of at least two numbers."""
    if n == 0:
        return [()]
    found = []
    for first in range(1, n + 1):
        found += [(first, *rest) for rest in _partitions(n - first) if first < n or rest]
    return [p for p in found if len(p) > 1] if n > 1 else [(1,)]


def _math() -> list[str]:
    types = [f"{t}{n}" for t in _FLOATING for n in ("", 2, 3, 4)]
    lines = []
    for t in types:
        lines += [f"{t} {f}({t});" for f in _UNARY]
        lines += [f"{t} {f}({t}, {t});" for f in _BINARY]
        lines += [f"{t} fma({t}, {t}, {t});"]
    for space in ("precise", "fast"):
        lines += [f"namespace {space} {{"]
        lines += [f"{t} {f}({t});" for t in types for f in _NAMED_PRECISION]
        lines += ["}"]
    lines += [f"{t} dot({t}{n}, {t}{n});" for t in _FLOATING for n in (2, 3, 4)]
    lines.append("bool isnan(float);")
    return lines


def _integer_math() -> list[str]:
    types = [f"{t}{n}" for t in _INTEGERS for n in ("", 2, 3, 4)] + ["long", "ulong"]
    lines = [f"{t} min({t}, {t}); {t} max({t}, {t});" for t in types]
    lines.append(
        "template <class To, class From> To as_type(From from) { "
        'static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ"); '
        "return __builtin_bit_cast(To, from); }"
    )
    return lines


def _groups() -> list[str]:
    lines = [
        "enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };",
        "mem_flags operator|(mem_flags, mem_flags);",
        "void threadgroup_barrier(mem_flags); void simdgroup_barrier(mem_flags);",
        "bool simd_all(bool); bool simd_any(bool);",
        "struct simdgroup_float8x8 { float at[2]; };",
        "template <class T, int Columns, int Rows> "
        "simdgroup_float8x8 make_filled_simdgroup_matrix(T);",
        "void simdgroup_load(thread simdgroup_float8x8&, threadgroup const float*, ulong);",
        "void simdgroup_store(thread const simdgroup_float8x8&, threadgroup float*, ulong);",
        "void simdgroup_multiply_accumulate(thread simdgroup_float8x8&, "
        "thread const simdgroup_float8x8&, thread const simdgroup_float8x8&, "
        "thread const simdgroup_float8x8&);",
    ]
    reductions = ["sum", "max", "min", "prefix_inclusive_sum", "prefix_exclusive_sum"]
    moves = ["shuffle", "shuffle_xor", "shuffle_up", "shuffle_down", "broadcast"]
    for t in (f"{t}{n}" for t in _SHUFFLED for n in ("", 2, 3, 4)):
        lines += [f"{t} simd_{f}({t});" for f in reductions]
        lines += [f"{t} simd_{f}({t}, ushort);" for f in moves]
    return lines
