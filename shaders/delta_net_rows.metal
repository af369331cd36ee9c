// Gated delta net over n tokens of one sequence, small tensors f32.
#include "arguments.h"
#include "delta_net.h"

constant constexpr uint kLaneKeys = 16;  // of one row of S that a lane holds: Dk up to 512
constant constexpr uint kLaneRows = 2;   // rows of S a SIMD group updates: two sums in flight

// y[t, c] = silu(sum over j < taps of weights[c, j] * x[t - taps + 1 + j, c] + bias[c]), where x
// before the first token is history_in (taps - 1, channels), oldest first; history_out: the last
// taps - 1 inputs. x, y (n, channels), weights (channels, taps), bias (channels), with has_bias. A
// thread per channel; the histories may be one buffer.
/// @elements history_in (taps - 1) * channels
/// @elements x n * channels
/// @elements weights channels * taps
/// @elements bias has_bias > 0 ? channels : 0
/// @elements y n * channels
/// @elements history_out (taps - 1) * channels
/// @threadgroup any
/// @default_threadgroup 256
/// @grid channels
/// @require taps > 0
/// @require grid >= channels
kernel void conv1d_f32(device const float* history_in [[buffer(0)]],
                       device const float* x [[buffer(1)]],
                       device const float* weights [[buffer(2)]],
                       device const float* bias [[buffer(3)]],
                       device float* y [[buffer(4)]],
                       device float* history_out [[buffer(5)]],
                       constant uint& n [[buffer(6)]],
                       constant uint& channels [[buffer(7)]],
                       constant uint& taps [[buffer(8)]],
                       constant uint& has_bias [[buffer(9)]],
                       uint channel [[thread_position_in_grid]]) {
  if (channel >= channels) return;
  const uint history = taps - 1;
  device const float* weight = weights + ulong(channel) * taps;
  const float begin = has_bias ? bias[channel] : 0.0f;
  for (uint t = 0; t < n; ++t) {
    float sum = begin;
    for (uint j = 0; j < taps; ++j) {
      const uint at = t + j;  // in history followed by x
      const float value = at < history ? history_in[ulong(at) * channels + channel]
                                       : x[ulong(at - history) * channels + channel];
      sum = fma(weight[j], value, sum);
    }
    y[ulong(t) * channels + channel] = silu(sum);
  }
  for (uint j = 0; j < history; ++j) {  // upwards: an entry is read before it is overwritten
    const uint at = n + j;
    history_out[ulong(j) * channels + channel] = at < history
                                                     ? history_in[ulong(at) * channels + channel]
                                                     : x[ulong(at - history) * channels + channel];
  }
}

// g_decay = exp(-exp(A_log) * softplus(alpha + dt_bias)), beta_gate = sigmoid(beta); alpha, beta,
// g_decay, beta_gate (n, heads), A_log, dt_bias (heads). A thread per element.
/// @elements alpha n * heads
/// @elements beta n * heads
/// @elements A_log heads
/// @elements dt_bias heads
/// @elements g_decay n * heads
/// @elements beta_gate n * heads
/// @threadgroup any
/// @default_threadgroup 64
/// @grid n * heads
/// @require grid >= n * heads
kernel void compute_decay_beta_f32(device const float* alpha [[buffer(0)]],
                                   device const float* beta [[buffer(1)]],
                                   device const float* A_log [[buffer(2)]],
                                   device const float* dt_bias [[buffer(3)]],
                                   device float* g_decay [[buffer(4)]],
                                   device float* beta_gate [[buffer(5)]],
                                   constant uint& n [[buffer(6)]],
                                   constant uint& heads [[buffer(7)]],
                                   uint i [[thread_position_in_grid]]) {
  if (i >= n * heads) return;
  const uint head = i % heads;
  g_decay[i] = precise::exp(-precise::exp(A_log[head]) * softplus(alpha[i] + dt_bias[head]));
  beta_gate[i] = sigmoid(beta[i]);
}

// For each token t in order and each value head h with state S (value_dim, Dk), q, k of key
// head h / (value_heads / key_heads):
//   S = g[t, h] S;  S += outer((v - S k) beta[t, h], k);  out[t, h] = S q
// state_in, state_out (value_heads, value_dim, Dk), qkv (n, stride): a row holds all q, all k,
// all v; g_decay, beta_gate (n, value_heads), out (n, value_heads, value_dim). Rows of S do not
// depend on each other: a SIMD group takes two through all tokens and keeps them in registers,
// lanes along Dk. The states may be one buffer.
/// @elements state_in value_heads * value_dim * Dk
/// @elements qkv n > 0 ? (n - 1) * stride + 2 * key_heads * Dk + value_heads * value_dim : 0
/// @elements g_decay n * value_heads
/// @elements beta_gate n * value_heads
/// @elements out n * value_heads * value_dim
/// @elements state_out value_heads * value_dim * Dk
/// @threadgroup multiple of 32 up to 256
/// @default_threadgroup 64
/// @grid value_heads * ceil_div(value_dim, 2) * 32
/// @require Dk <= 512
/// @require key_heads > 0
/// @require value_heads % key_heads == 0
/// @require 2 * key_heads * Dk + value_heads * value_dim <= stride
/// @require grid / 32 >= value_heads * ceil_div(value_dim, 2)
kernel void gated_delta_net_f32(device const float* state_in [[buffer(0)]],
                                device const float* qkv [[buffer(1)]],
                                device const float* g_decay [[buffer(2)]],
                                device const float* beta_gate [[buffer(3)]],
                                device float* out [[buffer(4)]],
                                device float* state_out [[buffer(5)]],
                                constant GatedDeltaNetArgs& args [[buffer(6)]],
                                uint i [[thread_position_in_grid]],
                                uint lane [[thread_index_in_simdgroup]]) {
  const uint pairs = (args.value_dim + kLaneRows - 1) / kLaneRows;
  const ulong unit = i / kSimdWidth;
  if (unit >= ulong(args.value_heads) * pairs) return;  // the whole SIMD group
  const uint head = uint(unit / pairs);
  const uint first = uint(unit % pairs) * kLaneRows;
  const bool second = first + 1 < args.value_dim;  // does the pair have two rows?
  const ulong state_at = (ulong(head) * args.value_dim + first) * Dk;
  float s0[kLaneKeys];
  float s1[kLaneKeys];
#pragma unroll
  for (uint j = 0; j < kLaneKeys; ++j) {
    if (j * kSimdWidth >= Dk) break;
    const uint key = lane + j * kSimdWidth;
    s0[j] = key < Dk ? state_in[state_at + key] : 0.0f;
    s1[j] = key < Dk && second ? state_in[state_at + Dk + key] : 0.0f;
  }
  const ulong q_at = ulong(head / (args.value_heads / args.key_heads)) * Dk;
  const ulong k_at = q_at + ulong(args.key_heads) * Dk;
  const ulong v_at = 2ul * args.key_heads * Dk + ulong(head) * args.value_dim + first;
  for (uint t = 0; t < args.n; ++t) {
    device const float* row = qkv + ulong(t) * args.stride;
    const ulong gate_at = ulong(t) * args.value_heads + head;
    const float g = g_decay[gate_at];
    const float beta = beta_gate[gate_at];
    float2 recalled = float2(0.0f, 0.0f);
#pragma unroll
    for (uint j = 0; j < kLaneKeys; ++j) {
      if (j * kSimdWidth >= Dk) break;
      const uint key = lane + j * kSimdWidth;
      if (key >= Dk) continue;
      const float k = row[k_at + key];
      s0[j] *= g;
      s1[j] *= g;
      recalled = fma(float2(s0[j], s1[j]), float2(k, k), recalled);
    }
    const float v0 = row[v_at];
    const float v1 = second ? row[v_at + 1] : 0.0f;
    const float delta0 = (v0 - simd_sum(recalled.x)) * beta;
    const float delta1 = (v1 - simd_sum(recalled.y)) * beta;
    float2 result = float2(0.0f, 0.0f);
#pragma unroll
    for (uint j = 0; j < kLaneKeys; ++j) {
      if (j * kSimdWidth >= Dk) break;
      const uint key = lane + j * kSimdWidth;
      if (key >= Dk) continue;
      const float k = row[k_at + key];
      const float q = row[q_at + key];
      s0[j] = fma(delta0, k, s0[j]);
      s1[j] = fma(delta1, k, s1[j]);
      result = fma(float2(s0[j], s1[j]), float2(q, q), result);
    }
    result = float2(simd_sum(result.x), simd_sum(result.y));
    const ulong out_at = (ulong(t) * args.value_heads + head) * args.value_dim + first;
    if (lane == 0) out[out_at] = result.x;
    if (lane == 0 && second) out[out_at + 1] = result.y;
  }
#pragma unroll
  for (uint j = 0; j < kLaneKeys; ++j) {
    if (j * kSimdWidth >= Dk) break;
    const uint key = lane + j * kSimdWidth;
    if (key < Dk) state_out[state_at + key] = s0[j];
    if (key < Dk && second) state_out[state_at + Dk + key] = s1[j];
  }
}
