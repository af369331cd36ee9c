// The root mean square norm of a row by a threadgroup, in one order of sums for all kernels that do
// it: what else they do changes no bit of it.
#pragma once
#include "common.h"

// out = x * rsqrt(mean(x^2) + eps) * weight, all (dim). `squares` is this thread's part of the sum,
// over the columns thread_index, + threads, .., in which it has written x, if it has. To be called by
// all threads.
inline void norm_row(device const float* x,
                     device const float* weight,
                     device float* out,
                     uint dim,
                     float eps,
                     float squares,
                     threadgroup float* scratch,
                     uint thread_index,
                     uint threads,
                     uint lane,
                     uint simdgroup,
                     uint simdgroups) {
  const float sum = threadgroup_sum(squares, scratch, lane, simdgroup, simdgroups);
  const float scale = precise::rsqrt(sum / float(dim) + eps);
  for (uint i = thread_index; i < dim; i += threads) out[i] = x[i] * scale * weight[i];
}
