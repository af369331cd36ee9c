"""Small shaders, right and wrong ones."""

from __future__ import annotations

HEAD = """\
#line 1 "snippet.metal"
#include <metal_stdlib>
using namespace metal;
"""
FIRST_BODY_LINE = 7  # of kernel() without `extra`


def kernel(body: str, extra: str = "", name: str = "k") -> str:
    """A kernel with buffers o and a, a scalar n and positions i and lid."""
    return (
        f"{HEAD}{extra}"
        "/// @elements o n\n/// @elements a n\n/// @threadgroup any\n"
        f"kernel void {name}(device float* o [[buffer(0)]], device const float* a [[buffer(1)]], "
        "constant uint& n [[buffer(2)]], uint i [[thread_position_in_grid]], "
        "uint lid [[thread_position_in_threadgroup]]) {\n"
        f"{body}\n}}\n"
    )


def signature(parameters: str, notes: str = "", head: str = "kernel void k") -> str:
    """A kernel with these parameters and annotations and an empty body."""
    return f"{HEAD}/// @threadgroup any\n{notes}{head}({parameters}) {{}}\n"


OUT = "device float* o [[buffer(0)]]"
OUT_NOTE = "/// @elements o 1\n"

# name: (source, what the message says, line of the message or None)
REFUSED_BY_FRONT_END = {
    # parameters and attributes
    "pointer without an address space": (
        signature("float* o [[buffer(0)]]"),
        "expected `device",
        4,
    ),
    "scalar without an attribute": (
        signature(f"{OUT}, uint n", OUT_NOTE),
        "exactly one attribute",
        5,
    ),
    "two attributes": (
        signature("device float* o [[buffer(0)]] [[thread_position_in_grid]]"),
        "exactly one attribute",
        4,
    ),
    "struct by value": (
        signature(f"{OUT}, uint4 n [[buffer(1)]]", OUT_NOTE),
        "expected `device T",
        5,
    ),
    "struct in constant": (
        signature(f"{OUT}, constant P& p [[buffer(1)]]", OUT_NOTE),
        "no binding has the type P",
        5,
    ),
    "struct of arguments with an array": (
        signature("constant P& p [[buffer(0)]]").replace(
            HEAD, HEAD + "struct P {\n  uint n;\n  float w[4];\n};\n"
        ),
        "fields that are float, uint, int",
        5,
    ),
    "struct of arguments with a field of 16 bits": (
        signature("constant P& p [[buffer(0)]]").replace(HEAD, HEAD + "struct P { ushort n; };\n"),
        "fields that are float, uint, int",
        3,
    ),
    "buffer behind a struct of arguments": (
        signature(f"constant P& p [[buffer(0)]], {OUT.replace('0', '1')}", OUT_NOTE).replace(
            HEAD, HEAD + "struct P { uint n; };\n"
        ),
        "the last of the buffers",
        6,
    ),
    "more fields than arguments": (
        signature("constant P& p [[buffer(0)]]").replace(
            HEAD, f"{HEAD}struct P {{ uint {', '.join(f'n{i}' for i in range(32))}; }};\n"
        ),
        "at most 31 arguments",
        5,
    ),
    "16-bit integers": (
        signature("device ushort* o [[buffer(0)]]"),
        "no binding has the type ushort",
        4,
    ),
    "a vector of three": (signature("device float3* o [[buffer(0)]]"), "no binding", 4),
    "same buffer index twice": (
        signature(f"{OUT}, device float* b [[buffer(0)]]", OUT_NOTE),
        r"expected \[\[buffer\(1\)\]\], found \[\[buffer\(0\)\]\]",
        5,
    ),
    "a gap in the buffer indices": (
        signature(f"{OUT}, device float* b [[buffer(2)]]", OUT_NOTE),
        r"expected \[\[buffer\(1\)\]\]",
        5,
    ),
    "more than 31 buffers": (
        signature(", ".join(f"device float* b{i} [[buffer({i})]]" for i in range(32))),
        "from 0 to 30",
        4,
    ),
    "buffer behind a built-in": (
        signature(f"uint i [[thread_position_in_grid]], {OUT}"),
        "buffers come first",
        4,
    ),
    "threadgroup memory as an argument": (
        signature(f"{OUT}, threadgroup float* s [[threadgroup(0)]]", OUT_NOTE),
        r"\[\[threadgroup\]\] is not supported",
        5,
    ),
    "position of type int": (
        signature(f"{OUT}, int i [[thread_position_in_grid]]", OUT_NOTE),
        "cannot have the type int",
        5,
    ),
    "vector of a scalar attribute": (
        signature(f"{OUT}, uint2 i [[thread_index_in_simdgroup]]", OUT_NOTE),
        "cannot have the type uint2",
        5,
    ),
    "positions of different widths": (
        signature(
            f"{OUT}, uint i [[thread_position_in_grid]], uint3 g [[threadgroup_position_in_grid]]",
            OUT_NOTE,
        ),
        "mix widths",
        5,
    ),
    "an attribute twice": (
        signature(
            f"{OUT}, uint i [[thread_position_in_grid]], uint j [[thread_position_in_grid]]",
            OUT_NOTE,
        ),
        "used twice",
        5,
    ),
    "an unknown attribute": (
        signature(f"{OUT}, uint i [[thread_position_in_gird]]", OUT_NOTE),
        "thread_position_in_gird",
        5,
    ),
    "attribute behind the parameters": (
        f"{HEAD}kernel void k({OUT}) [[max_total_threads_per_threadgroup(32)]] {{}}\n",
        "behind the parameter list",
        3,
    ),
    "kernel that returns a value": (
        signature(OUT, OUT_NOTE, head="kernel float k"),
        "kernel void name",
        5,
    ),
    "kernel template": (
        signature(OUT, OUT_NOTE, head="template <typename T> kernel void k"),
        "kernel void name",
        5,
    ),
    # threadgroup memory
    "threadgroup array in a helper": (
        kernel("o[i] = f();", "float f() {\nthreadgroup float s[4];\nreturn s[0]; }\n"),
        "outside a kernel",
        4,
    ),
    "threadgroup array in a block": (
        kernel("if (n > 1) { threadgroup float s[4]; s[lid] = 1; }"),
        "top level",
        FIRST_BODY_LINE,
    ),
    "threadgroup array with an initialiser": (
        kernel("threadgroup float s[4] = {0};"),
        "initialiser",
        FIRST_BODY_LINE,
    ),
    "threadgroup array of unknown length": (
        kernel("threadgroup float s[kUnknown];"),
        "kUnknown is no known constant",
        FIRST_BODY_LINE,
    ),
    "threadgroup array of unknown type": (
        kernel("threadgroup S s[4];", "struct S { float x; };\n"),
        "unknown size",
        FIRST_BODY_LINE + 1,
    ),
    "more than 32 KiB of threadgroup memory": (
        kernel("threadgroup float s[8192];\nthreadgroup float t[1];"),
        "32784 bytes of threadgroup memory",
        6,
    ),
    # the language
    "double": (kernel("double d = a[i]; o[i] = d;"), "no double", FIRST_BODY_LINE),
    "bfloat": (kernel("bfloat d = 1; o[i] = d;"), "Metal 3.1", FIRST_BODY_LINE),
    "long long": (kernel("long long x = n; o[i] = x;"), "long long", FIRST_BODY_LINE),
    "goto": (kernel("if (n) goto end; o[i] = 1; end: ;"), "goto", FIRST_BODY_LINE),
    "new": (kernel("thread float* p = new float;"), "new", FIRST_BODY_LINE),
    "throw": (kernel("if (n) throw 1;"), "throw", FIRST_BODY_LINE),
    "virtual": (
        kernel("o[i] = 1;", "struct S { virtual float f() { return 1; } };\n"),
        "virtual",
        3,
    ),
    "auto": (kernel("auto p = &a[i]; o[i] = *p;"), "write the type", FIRST_BODY_LINE),
    "lambda": (
        kernel("o[i] = apply([](float x) { return x; });"),
        "lambda",
        FIRST_BODY_LINE,
    ),
    "static local": (kernel("static float s = 1; o[i] = s;"), "static local", FIRST_BODY_LINE),
    "static local in a helper": (
        kernel("o[i] = f();", "float f() { static float s = 1; return s; }\n"),
        "static local",
        3,
    ),
    "recursion": (
        kernel("o[i] = f(n);", "uint f(uint n) { return n < 2 ? 1 : n * f(n - 1); }\n"),
        "f is recursive",
        3,
    ),
    "recursion over two functions": (
        kernel(
            "o[i] = f(n);",
            "uint g(uint n);\nuint f(uint n) { return n + g(n); }\n"
            "uint g(uint n) { return f(n); }\n",
        ),
        "is recursive",
        None,
    ),
    "pointer parameter without an address space": (
        kernel("o[i] = f(a);", "float f(const float* p) { return *p; }\n"),
        "without an address space",
        3,
    ),
    "reference parameter without an address space": (
        kernel("float x = 1; f(x);", "void f(float& x) { x = 2; }\n"),
        "without an address space",
        3,
    ),
    "mutable global": (kernel("g += 1;", "float g = 1;\n"), "outside `constant`", 3),
    "global in no address space": (
        kernel("o[i] = g;", "const float g = 1;\n"),
        "outside `constant`",
        3,
    ),
    "constant without a value": (kernel("o[i] = g;", "constant float g;\n"), "without a value", 3),
    "namespace": (kernel("o[i] = 1;", "namespace q { constant float T = 1; }\n"), "namespaces", 3),
    "macro with an address space": (
        kernel("o[i] = 1;", "#define GLOBAL device const\n"),
        "`device` inside a macro",
        3,
    ),
    "macro that is a kernel": (
        kernel("o[i] = 1;", "#define K(name) \\\n  kernel void name() {}\n"),
        "`kernel` inside a macro",
        3,
    ),
    "macro that synchronises": (
        kernel("o[i] = SUM(a[i]);", "#define SUM(x) simd_sum(x)\n"),
        "`simd_sum` inside a macro",
        3,
    ),
    "member function that synchronises": (
        kernel(
            "S s; o[i] = s.f(a[i]);", "struct S {\nfloat f(float x) { return simd_sum(x); } };\n"
        ),
        "simd_sum in a type",
        4,
    ),
    "member function that calls one that synchronises": (
        kernel(
            "S s; o[i] = s.f(a[i]);",
            "inline float g(float x) { return simd_sum(x); }\n"
            "struct S { float f(float x) { return g(x); } };\n",
        ),
        "g in a type",
        4,
    ),
    "unclosed brace": (f"{HEAD}kernel void k({OUT}) {{\n", "unclosed", 3),
    "a character of no language": (kernel("o[i] = @;"), "cannot read", FIRST_BODY_LINE),
    # function constants
    "function constant without a default": (
        kernel("o[i] = D;", "constant uint D [[function_constant(0)]];\n"),
        "@default NUMBER",
        3,
    ),
    "function constant of type float": (
        kernel("o[i] = D;", "/// @default 1\nconstant float D [[function_constant(0)]];\n"),
        "constant uint NAME",
        4,
    ),
    "two function constants of one index": (
        kernel(
            "o[i] = D + C;",
            "/// @default 1\nconstant uint D [[function_constant(0)]];\n"
            "/// @default 1\nconstant uint C [[function_constant(0)]];\n",
        ),
        "same index",
        6,
    ),
    "function constant from another": (
        kernel(
            "o[i] = C;",
            "/// @default 1\nconstant uint D [[function_constant(0)]];\nconstant uint C = D * 2;\n",
        ),
        "depends on a function constant",
        5,
    ),
}

# Types and address spaces: what only the lint sees. name: (source, what clang says)
REFUSED_BY_LINT = {
    "local pointer without an address space": (
        kernel("float x = 1; float* p = &x; o[i] = *p;"),
        "p: pointer or reference without an address space",
    ),
    "member pointer without an address space": (
        kernel("o[i] = 0;", "struct S { float* p; };\n"),
        "p: pointer or reference without an address space",
    ),
    "device pointer as a threadgroup one": (
        kernel("threadgroup float* p = o; o[i] = p[0];"),
        "changes address space|cannot initialize",
    ),
    "threadgroup array for a device parameter": (
        kernel(
            "threadgroup float s[4]; s[0] = 1; o[i] = f(s);",
            "float f(device const float* p) { return *p; }\n",
        ),
        "no matching function",
    ),
    "constant for a device parameter": (
        kernel("o[i] = f(&n);", "uint f(device const uint* p) { return *p; }\n"),
        "no matching function",
    ),
    "write through device const": (kernel("a[i] = 1;"), "not assignable"),
    "write to constant": (kernel("n = 1;"), "not assignable"),
    "max of float and int": (kernel("o[i] = max(a[i], 0);"), "ambiguous"),
    "min of uint and int": (kernel("o[i] = min(n, 3);"), "ambiguous"),
    "float4 to half4": (kernel("half4 h = float4(a[i]); o[i] = h.x;"), "cannot initialize"),
    "float4 to float3": (kernel("float3 h = float4(a[i]); o[i] = h.x;"), "cannot initialize"),
    "int4 to float4": (kernel("float4 h = int4(1); o[i] = h.x;"), "cannot initialize"),
    "expf": (kernel("o[i] = expf(a[i]);"), "undeclared identifier 'expf'"),
    "printf": (kernel('printf("x");'), "printf"),
    "std::max": (kernel("o[i] = std::max(a[i], 1.0f);"), "'std'"),
    "undeclared function": (kernel("o[i] = frobnicate(a[i]);"), "frobnicate"),
    "call before the declaration": (
        kernel("o[i] = f(a[i]);") + "float f(float x) { return x; }\n",
        "'f'",
    ),
    "as_type of another size": (kernel("o[i] = as_type<float>(ushort(1));"), "sizes differ"),
    "float3 modulo": (kernel("float3 v = float3(1) % float3(2); o[i] = v.x;"), "invalid operands"),
    "narrowing in braces": (kernel("int v[2] = {1, a[i]}; o[i] = v[0];"), "narrow"),
    "atomics": (kernel("atomic_fetch_add_explicit(o, 1.0f, memory_order_relaxed);"), "undeclared"),
}

# What Metal accepts and this project may write.
ACCEPTED = {
    "early return before no barrier": kernel("if (i >= n) return; o[i] = 1;"),
    "unsuffixed literals": kernel("float x = 0.5; x = x * 1e-3 + 2.; o[i] = x > 0.1 ? x : 1.0;"),
    "hexadecimal and suffixes": kernel("uint m = 0xffe0u & 0x1Fu; o[i] = float(m) + 1.5f + 2.0h;"),
    "half arithmetic": kernel("half h = half(a[i]); o[i] = float(h * 2.0h + 1.0h) + h * 2.0f;"),
    "vectors": kernel(
        "float4 v = 2.0f * float4(a[i], a[0], 1.0f, 2.0f); v *= 3.0f; v.x += v[1];\n"
        "o[i] = v.x + dot(v, float4(1.0f)) + fma(v, v, v).w;"
    ),
    "vectors of bytes": kernel(
        "uchar4 b = as_type<uchar4>(n); float4 f = float4(b); o[i] = f.x + f.w;"
    ),
    "cast to a vector in device memory": kernel("o[i] = ((device const float4*)a)[0].y;"),
    "two-dimensional threadgroup array": kernel(
        "threadgroup float s[4 * 2][kWide];\ns[lid & 7][0] = 1;\n"
        "threadgroup_barrier(mem_flags::mem_threadgroup);\no[i] = s[0][0];",
        "constant constexpr uint kWide = 8;\n",
    ),
    "two threadgroup arrays in a declaration": kernel(
        "threadgroup float4 s[32], t[8];\ns[lid & 31] = float4(a[i]);\nt[lid & 7] = s[lid & 31];\n"
        "threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);\no[i] = s[0].x;"
    ),
    "threadgroup array of a computed length": kernel(
        "threadgroup float s[kRows * 2 + 1];\ns[lid % 33] = a[i];\n"
        "threadgroup_barrier(mem_flags::mem_threadgroup);\no[i] = s[0];",
        "constant constexpr uint kHalf = 8;\nconstant constexpr uint kRows = kHalf * 2;\n",
    ),
    "threadgroup pointer to a helper": kernel(
        "threadgroup float s[64];\ns[lid & 63] = a[i];\n"
        "simdgroup_barrier(mem_flags::mem_threadgroup);\n"
        "o[i] = total(s, lid);",
        "inline float total(threadgroup float* s, uint at) {\n"
        "  threadgroup float* p = s + (at & 62);\n  return p[0] + p[1];\n}\n",
    ),
    "templates": kernel(
        "o[i] = float(low<4>(n)) + first(a);",
        "template <int Bits> inline uint low(uint v) {\n"
        "  constexpr uint mask = (1u << Bits) - 1;\n  return v & mask;\n}\n"
        "template <typename T> inline T first(device const T* p) { return p[0]; }\n",
    ),
    "thread pointer and reference parameters": kernel(
        "float x, y; split(a[i], x, &y); o[i] = x + y;",
        "inline void split(float v, thread float& x, thread float* y) { x = v; *y = v * 2; }\n",
    ),
    "table in constant": kernel("o[i] = T[n & 3];", "constant float T[4] = {1, 2, 3, 4};\n"),
    "struct, enum class, using, static_assert": kernel(
        "P p; p.s = a[i]; o[i] = p.twice() + float(uint(Act::silu)) + Real(1);",
        "struct P {\n  float s;\n  float twice() const { return s * 2; }\n};\n"
        "enum class Act : uint { none, silu };\nusing Real = float;\n"
        'static_assert(sizeof(P) == 4, "one float");\n',
    ),
    "struct of arguments": (
        f"{HEAD}struct KArgs {{\n  uint n, first;\n  float s;\n}};\n"
        "/// @elements o first + n\n/// @threadgroup any\n/// @require n > 0\n"
        "kernel void k(device float* o [[buffer(0)]], constant KArgs& p [[buffer(1)]], "
        "uint i [[thread_position_in_grid]]) {\n  if (i < p.n) o[p.first + i] = p.s;\n}\n"
    ),
    "preprocessor": kernel(
        "#if BITS == 4\no[i] = BITS;\n#endif", "#define BITS 4\n#define TWICE(x) ((x) * 2)\n"
    ),
    "64-bit offsets": kernel("ulong at = ulong(n) * 4096ul + i; o[at & 1] = 1;"),
    "function constant": kernel(
        "o[i] = D;", "/// @default 7\nconstant uint D [[function_constant(3)]];\n"
    ),
    "simd functions of vectors and integers": kernel(
        "o[i] = simd_max(a[i]) + float(simd_sum(n)) + simd_shuffle_xor(a[i], 1);"
    ),
    "overloads": kernel(
        "o[i] = size(1.0f) + size(float2(1.0f, 2.0f));",
        "inline float size(float v) { return v; }\ninline float size(float2 v) { return v.x; }\n",
    ),
    "precise and fast functions": kernel(
        "o[i] = precise::exp(-fabs(a[i])) + fast::sin(a[i]) + rsqrt(a[i]) + min(a[i], 1.0f);"
    ),
}
