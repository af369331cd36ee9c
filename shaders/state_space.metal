// Mamba-2 over n tokens of one sequence. Its convolution is conv1d_f32.
#include "arguments.h"
#include "delta_net.h"

constant constexpr uint kSpaceColumns = 16;  // of one row of S that a lane holds: Dk up to 512
constant constexpr uint kSpaceRows = 2;      // rows of S a SIMD group updates: two sums in flight

// dt = softplus(steps + dt_bias), decay = exp(-exp(A_log) * dt); steps, dt, decay (n, heads), dt_bias,
// A_log (heads). A thread per element; steps and dt may be one buffer.
/// @elements steps n * heads
/// @elements dt_bias heads
/// @elements A_log heads
/// @elements dt n * heads
/// @elements decay n * heads
/// @threadgroup any
/// @default_threadgroup 64
/// @grid n * heads
/// @require grid >= n * heads
kernel void state_space_steps_f32(device const float* steps [[buffer(0)]],
                                  device const float* dt_bias [[buffer(1)]],
                                  device const float* A_log [[buffer(2)]],
                                  device float* dt [[buffer(3)]],
                                  device float* decay [[buffer(4)]],
                                  constant uint& n [[buffer(5)]],
                                  constant uint& heads [[buffer(6)]],
                                  uint i [[thread_position_in_grid]]) {
  if (i >= n * heads) return;
  const uint head = i % heads;
  const float step = softplus(steps[i] + dt_bias[head]);
  dt[i] = step;
  decay[i] = precise::exp(-precise::exp(A_log[head]) * step);
}

// For each token t in order and each head h with state S (head_dim, Dk), b and c of group
// h / (heads / n_groups):
//   S = decay[t, h] S + outer(dt[t, h] u, b);  out[t, h] = S c + skip[h] u
// state_in, state_out (heads, head_dim, Dk), rows (n, stride): a row holds all u (heads, head_dim),
// all b (n_groups, Dk), all c; decay, dt (n, heads), skip (heads), out (n, heads, head_dim). Rows of S
// do not depend on each other: a SIMD group takes two through all tokens and keeps them in registers,
// lanes along Dk. The states may be one buffer.
/// @elements state_in heads * head_dim * Dk
/// @elements rows n > 0 ? (n - 1) * stride + heads * head_dim + 2 * n_groups * Dk : 0
/// @elements decay n * heads
/// @elements dt n * heads
/// @elements skip heads
/// @elements out n * heads * head_dim
/// @elements state_out heads * head_dim * Dk
/// @threadgroup multiple of 32 up to 256
/// @default_threadgroup 64
/// @grid heads * ceil_div(head_dim, 2) * 32
/// @require Dk <= 512
/// @require n_groups > 0
/// @require heads % n_groups == 0
/// @require heads * head_dim + 2 * n_groups * Dk <= stride
/// @require grid / 32 >= heads * ceil_div(head_dim, 2)
kernel void state_space_f32(device const float* state_in [[buffer(0)]],
                            device const float* rows [[buffer(1)]],
                            device const float* decay [[buffer(2)]],
                            device const float* dt [[buffer(3)]],
                            device const float* skip [[buffer(4)]],
                            device float* out [[buffer(5)]],
                            device float* state_out [[buffer(6)]],
                            constant StateSpaceArgs& args [[buffer(7)]],
                            uint i [[thread_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]]) {
  const uint pairs = (args.head_dim + kSpaceRows - 1) / kSpaceRows;
  const ulong unit = i / kSimdWidth;
  if (unit >= ulong(args.heads) * pairs) return;  // the whole SIMD group
  const uint head = uint(unit / pairs);
  const uint first = uint(unit % pairs) * kSpaceRows;
  const bool second = first + 1 < args.head_dim;  // does the pair have two rows?
  const ulong state_at = (ulong(head) * args.head_dim + first) * Dk;
  float s0[kSpaceColumns];
  float s1[kSpaceColumns];
#pragma unroll
  for (uint j = 0; j < kSpaceColumns; ++j) {
    if (j * kSimdWidth >= Dk) break;
    const uint column = lane + j * kSimdWidth;
    s0[j] = column < Dk ? state_in[state_at + column] : 0.0f;
    s1[j] = column < Dk && second ? state_in[state_at + Dk + column] : 0.0f;
  }
  const ulong u_at = ulong(head) * args.head_dim + first;
  const ulong b_at =
      ulong(args.heads) * args.head_dim + ulong(head / (args.heads / args.n_groups)) * Dk;
  const ulong c_at = b_at + ulong(args.n_groups) * Dk;
  for (uint t = 0; t < args.n; ++t) {
    device const float* row = rows + ulong(t) * args.stride;
    const float g = decay[ulong(t) * args.heads + head];
    const float step = dt[ulong(t) * args.heads + head];
    const float2 u = float2(row[u_at], second ? row[u_at + 1] : 0.0f);
    float2 result = float2(0.0f, 0.0f);
#pragma unroll
    for (uint j = 0; j < kSpaceColumns; ++j) {
      if (j * kSimdWidth >= Dk) break;
      const uint column = lane + j * kSimdWidth;
      if (column >= Dk) continue;
      const float b = row[b_at + column];
      const float c = row[c_at + column];
      s0[j] = fma(step * u.x, b, s0[j] * g);
      s1[j] = fma(step * u.y, b, s1[j] * g);
      result = fma(float2(s0[j], s1[j]), float2(c, c), result);
    }
    result = float2(simd_sum(result.x), simd_sum(result.y)) + skip[head] * u;
    const ulong out_at = (ulong(t) * args.heads + head) * args.head_dim + first;
    if (lane == 0) out[out_at] = result.x;
    if (lane == 0 && second) out[out_at + 1] = result.y;
  }
#pragma unroll
  for (uint j = 0; j < kSpaceColumns; ++j) {
    if (j * kSimdWidth >= Dk) break;
    const uint column = lane + j * kSimdWidth;
    if (column < Dk) state_out[state_at + column] = s0[j];
    if (column < Dk && second) state_out[state_at + Dk + column] = s1[j];
  }
}

// For each group of each row: y = values * silu(z), out = rms_norm(y) * weight; values, z, out (n,
// n_groups, width), weight (n_groups, width). A threadgroup per group, row after row; values and out may
// be one buffer.
/// @elements values n * n_groups * width
/// @elements z n * n_groups * width
/// @elements weight n_groups * width
/// @elements out n * n_groups * width
/// @threadgroup multiple of 32
/// @default_threadgroup 128
/// @grid n * n_groups * threads
/// @require grid == n * n_groups * threads
kernel void group_norm_gated_f32(device const float* values [[buffer(0)]],
                                 device const float* z [[buffer(1)]],
                                 device const float* weight [[buffer(2)]],
                                 device float* out [[buffer(3)]],
                                 constant uint& n [[buffer(4)]],
                                 constant uint& n_groups [[buffer(5)]],
                                 constant uint& width [[buffer(6)]],
                                 constant float& eps [[buffer(7)]],
                                 uint group [[threadgroup_position_in_grid]],
                                 uint thread_index [[thread_index_in_threadgroup]],
                                 uint threads [[threads_per_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]],
                                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                                 uint simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float scratch[kMaxSimdgroups];
  const ulong first = ulong(group) * width;
  device const float* scale_of = weight + ulong(group % n_groups) * width;
  float sum = 0.0f;
  for (uint i = thread_index; i < width; i += threads) {
    const float y = values[first + i] * silu(z[first + i]);
    sum = fma(y, y, sum);
  }
  sum = threadgroup_sum(sum, scratch, lane, simdgroup, simdgroups);
  const float scale = precise::rsqrt(sum / float(width) + eps);
  for (uint i = thread_index; i < width; i += threads)
    out[first + i] = values[first + i] * silu(z[first + i]) * scale * scale_of[i];
}
