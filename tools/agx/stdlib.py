"""Definitions behind the lint's declarations of <metal_stdlib>: OpenCL's built-in functions."""

from __future__ import annotations

from msl.lint_stdlib import stdlib as declarations

_LETTERS = {"float": "f", "half": "Dh", "int": "i", "uint": "j"}
_WIDTHS = (1, 2, 3, 4)

# Metal's name of a SIMD-group function: OpenCL's, and whether it takes a lane or a distance.
_REDUCTIONS = {
    "sum": "sub_group_reduce_add",
    "max": "sub_group_reduce_max",
    "min": "sub_group_reduce_min",
    "prefix_inclusive_sum": "sub_group_scan_inclusive_add",
    "prefix_exclusive_sum": "sub_group_scan_exclusive_add",
}
_MOVES = {
    "shuffle": "sub_group_shuffle",
    "shuffle_xor": "sub_group_shuffle_xor",
    "shuffle_up": "sub_group_shuffle_up",
    "shuffle_down": "sub_group_shuffle_down",
    "broadcast": "sub_group_broadcast",
}

_ULONG2 = "typedef ulong ulong2 __attribute__((ext_vector_type(2)));"  # of lists of buffers
_POSITIONS = """\
namespace cl {
ulong get_global_id(uint) __asm("_Z13get_global_idj");
ulong get_group_id(uint) __asm("_Z12get_group_idj");
ulong get_num_groups(uint) __asm("_Z14get_num_groupsj");
ulong get_global_size(uint) __asm("_Z15get_global_sizej");
ulong get_local_id(uint) __asm("_Z12get_local_idj");
uint get_sub_group_local_id() __asm("_Z22get_sub_group_local_idv");
uint get_sub_group_id() __asm("_Z16get_sub_group_idv");
int sub_group_all(int) __asm("_Z13sub_group_alli");
int sub_group_any(int) __asm("_Z13sub_group_anyi");
void barrier(uint) __asm("_Z7barrierj");
void sub_group_barrier(uint) __asm("_Z17sub_group_barrierj");
"""
# exp and log as AGX has them: of base 2.
_PRECISE = """\
inline float exp(float x) { return cl::exp2(x * 1.44269504f); }
inline float log(float x) { return cl::log2(x) * 0.693147181f; }
inline float rsqrt(float x) { return cl::rsqrt(x); }
inline float sin(float x) { return cl::sin(x); }
inline float cos(float x) { return cl::cos(x); }
"""
_REST = """\
inline bool isnan(float x) { return x != x; }
inline uint fence(mem_flags flags) {
  return (int(flags) & 2 ? 1u : 0u) | (int(flags) & 1 ? 2u : 0u);
}
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
inline void threadgroup_barrier(mem_flags flags) { cl::barrier(fence(flags)); }
inline void simdgroup_barrier(mem_flags flags) { cl::sub_group_barrier(fence(flags)); }
inline bool simd_all(bool value) { return cl::sub_group_all(value) != 0; }
inline bool simd_any(bool value) { return cl::sub_group_any(value) != 0; }
"""


def stdlib() -> str:
    """The text of the header."""
    lines = [declarations(), _ULONG2, _POSITIONS]
    for name in ("exp2", "log2", "rsqrt", "sin", "cos"):
        lines.append(_builtin("float", name, f"native_{name}", [("float", 1)]))
    for name in _LETTERS:
        one = (name, 1)
        lines += [_builtin(name, f, f, [one]) for f in _REDUCTIONS.values()]
        lines += [_builtin(name, f, f, [one, ("uint", 1)]) for f in _MOVES.values()]
    lines += ["}", "namespace metal {", *_constructors(), *_math(), *_simd(), _REST, "}"]
    return "\n".join(lines) + "\n"


def _vector(name: str, width: int) -> str:
    return name if width == 1 else f"{name}{width}"


def _builtin(result: str, name: str, opencl: str, types: list[tuple[str, int]]) -> str:
    """Declares `name` to be OpenCL's function, by the name that C++ mangles it to."""
    out, seen = f"_Z{len(opencl)}{opencl}", list[str]()
    for base, width in types:
        mangled = _LETTERS[base] if width == 1 else f"Dv{width}_{_LETTERS[base]}"
        if mangled in seen:
            at = seen.index(mangled)
            out += "S_" if at == 0 else f"S{at - 1}_"
            continue
        out += mangled
        if width > 1:
            seen.append(mangled)
    parameters = ", ".join(_vector(*t) for t in types)
    return f'{result} {name}({parameters}) __asm("{out}");'


def _constructors() -> list[str]:
    lines = []
    for name in (*_LETTERS, "ushort", "short", "uchar"):
        for width in _WIDTHS[1:]:
            vector = f"{name}{width}"
            names = [f"a{i}" for i in range(width)]
            parameters = ", ".join(f"{name} {n}" for n in names)
            copies = ", ".join(["a"] * width)
            lines += [
                f"inline {vector} make_{vector}({parameters}) "
                f"{{ return ({vector})({', '.join(names)}); }}",
                f"inline {vector} make_{vector}({name} a) {{ return ({vector})({copies}); }}",
                f"template <class V> inline {vector} make_{vector}(V a) "
                f"{{ return __builtin_convertvector(a, {vector}); }}",
            ]
        pair = f"{name}2"
        lines.append(
            f"inline {name}4 make_{name}4({pair} a, {pair} b) "
            f"{{ return ({name}4)(a.x, a.y, b.x, b.y); }}"
        )
    return lines


def _math() -> list[str]:
    lines = []
    for base in ("float", "half"):
        for width in _WIDTHS:
            one, vector = (base, width), _vector(base, width)
            lines += [
                _builtin(vector, "fma", "fma", [one] * 3),
                _builtin(vector, "fabs", "fabs", [one]),
                *(_builtin(vector, f, "fmin", [one] * 2) for f in ("min", "fmin")),
                *(_builtin(vector, f, "fmax", [one] * 2) for f in ("max", "fmax")),
            ]
            if width > 1:
                terms = " + ".join(f"a[{i}] * b[{i}]" for i in range(width))
                lines.append(f"inline {base} dot({vector} a, {vector} b) {{ return {terms}; }}")
    for base in ("int", "uint"):
        one = (base, 1)
        lines += [_builtin(base, f, f, [one] * 2) for f in ("min", "max")]
    for space in ("precise", "fast"):
        lines.append(f"namespace {space} {{\n{_PRECISE}}}")
    return [*lines, _PRECISE]


def _simd() -> list[str]:
    """SIMD-group functions; those of vectors component by component."""
    lines = []
    calls = {name: ("", "") for name in _REDUCTIONS} | {
        name: (", ushort lane", ", uint(lane)") for name in _MOVES
    }
    for base in _LETTERS:
        for name, (parameter, argument) in calls.items():
            opencl = (_REDUCTIONS | _MOVES)[name]
            for width in _WIDTHS:
                vector = _vector(base, width)
                head = f"inline {vector} simd_{name}({vector} a{parameter}) {{"
                if width == 1:
                    lines.append(f"{head} return cl::{opencl}(a{argument}); }}")
                    continue
                parts = ", ".join(f"cl::{opencl}(a[{i}]{argument})" for i in range(width))
                lines.append(f"{head} return ({vector})({parts}); }}")
    return lines
