// Gated delta net, one token: short convolution, decay and write strength, state update.
#include "../delta_net.h"

// Taps of conv1d_step.
/// @default 4
constant uint K [[function_constant(1)]];

// out[c] = silu(sum over t of weights[c, t] * x[t, c]), x = conv_state (K - 1, conv_dim) followed
// by input (conv_dim), weights (conv_dim, K); then conv_state = x[1:]. A thread per channel.
/// @elements conv_state (K - 1) * conv_dim
/// @elements input conv_dim
/// @elements weights conv_dim * K
/// @elements out conv_dim
/// @threadgroup any
/// @default_threadgroup 256
/// @grid conv_dim
/// @require K > 0
/// @require grid >= conv_dim
kernel void conv1d_step(device float* conv_state [[buffer(0)]],
                        device const float* input [[buffer(1)]],
                        device const bf16* weights [[buffer(2)]],
                        device float* out [[buffer(3)]],
                        constant uint& conv_dim [[buffer(4)]],
                        uint channel [[thread_position_in_grid]]) {
  if (channel >= conv_dim) return;
  device const bf16* weight = weights + ulong(channel) * K;
  device float* state = conv_state + channel;
  float sum = 0.0f;
  for (uint t = 0; t + 1 < K; ++t) {
    const float x = *state;
    sum = fma(to_f32(weight[t]), x, sum);
    *state = t + 2 < K ? state[conv_dim] : input[channel];
    state += conv_dim;
  }
  sum = fma(to_f32(weight[K - 1]), input[channel], sum);
  out[channel] = silu(sum);
}

// g_decay = exp(-exp(A_log) * softplus(alpha + dt_bias)), beta_gate = sigmoid(beta); all (Hv).
// A thread per value head.
/// @elements alpha grid
/// @elements beta grid
/// @elements A_log grid
/// @elements dt_bias grid
/// @elements g_decay grid
/// @elements beta_gate grid
/// @threadgroup any
/// @default_threadgroup 64
/// @grid len(alpha)
kernel void compute_decay_beta(device const float* alpha [[buffer(0)]],
                               device const float* beta [[buffer(1)]],
                               device const float* A_log [[buffer(2)]],
                               device const bf16* dt_bias [[buffer(3)]],
                               device float* g_decay [[buffer(4)]],
                               device float* beta_gate [[buffer(5)]],
                               uint head [[thread_position_in_grid]]) {
  const float step = softplus(alpha[head] + to_f32(dt_bias[head]));
  g_decay[head] = precise::exp(-precise::exp(A_log[head]) * step);
  beta_gate[head] = sigmoid(beta[head]);
}

// For each value head h with state S (Dv, Dk), key head kh = h / k_heads_per_v, g, beta:
//   S = g S;  S += outer((v - S k) beta, k);  out = S q
// state (Hv, Dv, Dk), q, k (Hk, Dk), v, out (Hv, Dv), g_decay, beta_gate (Hv). A threadgroup per
// value head, a thread per row of S: a SIMD group updates its 32 rows together, four at a time,
// lanes side by side along Dk, so that loads of S are contiguous and enough of them in flight.
/// @elements state groups * threads * Dk
/// @elements q ceil_div(groups, k_heads_per_v) * Dk
/// @elements k ceil_div(groups, k_heads_per_v) * Dk
/// @elements v grid
/// @elements g_decay groups
/// @elements beta_gate groups
/// @elements out grid
/// @threadgroup any
/// @default_threadgroup len(v) / len(g_decay)
/// @grid len(v)
/// @require k_heads_per_v > 0
/// @require grid % threads == 0
kernel void gated_delta_net_step(device float* state [[buffer(0)]],
                                 device const float* q [[buffer(1)]],
                                 device const float* k [[buffer(2)]],
                                 device const float* v [[buffer(3)]],
                                 device const float* g_decay [[buffer(4)]],
                                 device const float* beta_gate [[buffer(5)]],
                                 device float* out [[buffer(6)]],
                                 constant uint& k_heads_per_v [[buffer(7)]],
                                 uint head [[threadgroup_position_in_grid]],
                                 uint dv [[threads_per_threadgroup]],
                                 uint lane [[thread_index_in_simdgroup]],
                                 uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint begin = simdgroup * kSimdWidth;
  const uint end = min(begin + kSimdWidth, dv);
  const uint lanes = end - begin;  // the last SIMD group may be a partial one
  const ulong key_at = ulong(head / k_heads_per_v) * Dk;
  const ulong value_at = ulong(head) * dv;
  const float g = g_decay[head];
  const float beta = beta_gate[head];
  for (uint first = begin; first < end; first += 4) {
    const uint rows = min(4u, end - first);
    device float* s = state + (value_at + first) * Dk;
    float recalled[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // g S k
    for (uint j = lane; j < Dk; j += lanes) {
      const float key = g * k[key_at + j];
      for (uint r = 0; r < 4; ++r)
        if (r < rows) recalled[r] = fma(s[r * Dk + j], key, recalled[r]);
    }
    float delta[4];
    for (uint r = 0; r < 4; ++r) {
      const float value = v[value_at + min(first + r, end - 1)];
      delta[r] = (value - simd_sum(recalled[r])) * beta;
    }
    float result[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint j = lane; j < Dk; j += lanes) {
      const float key = k[key_at + j];
      const float query = q[key_at + j];
      for (uint r = 0; r < 4; ++r) {
        if (r >= rows) continue;
        const float updated = fma(delta[r], key, g * s[r * Dk + j]);
        s[r * Dk + j] = updated;
        result[r] = fma(updated, query, result[r]);
      }
    }
    for (uint r = 0; r < 4; ++r) {
      const float sum = simd_sum(result[r]);
      if (lane == 0 && r < rows) out[value_at + first + r] = sum;
    }
  }
}
