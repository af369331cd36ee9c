// A small shader library of the tests' own: Metal source, its binding tables, and for the stand-in
// the same kernels in C++.
#pragma once
#include <span>
#include <string_view>

#include "device/kernel_table.h"

namespace moeflux::test {

// axpy(x, y, a, n): y[i] += a * x[i]
// copy(in, out, n): out[i] = in[i]
// add_optional(x, bias or none, out, {n, has_bias}): out[i] = x[i] (+ bias[i])
// times_constants(out, n): out[i] = first * 1000 + second; function constants first = 2, second = 3
// firsts(list, out, n): out[i] = the first float of the i-th buffer of the list, 0 where none is
// undefined(out): in the table, not in the source
std::string_view source();
std::span<const device::KernelInfo> kernels();

#ifdef MOEFLUX_METAL_STANDIN
void register_kernels();
#endif

}  // namespace moeflux::test
